"""Scores of binary audio-visual segmentation under two protocols.

`ReferenceMetric` is what the public AVSBench evaluation computes, quirks included, so that a score can stand beside
published ones. `StrictMetric` does not depend on batches and scores frames in which nothing sounds apart.

    IoU = |P and G| / |P or G|, P = probability > 0.5
    F_t = 1.3 * precision * recall / (0.3 * precision + recall), P = probability >= t, for 255 thresholds t
"""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLDS = torch.linspace(0, 1 - 1e-10, 255)  # in float32 the last one is 1.0, as in the reference
BETA_SQUARED = 0.3


def f_curves(probabilities: Tensor, truth: Tensor) -> Tensor:
    """F of every frame at every threshold: [n, H, W] probabilities and bool truth -> [n, 255] float64.

    One histogram a frame replaces 255 comparisons: a pixel of bin b passes exactly the first b thresholds.
    """
    n = len(probabilities)
    bins = torch.bucketize(probabilities, THRESHOLDS.to(probabilities.device), right=True)
    bins = bins + 256 * torch.arange(n, device=bins.device)[:, None, None]

    def passing(values: Tensor) -> Tensor:  # [n, 255], how many pixels reach each threshold
        histogram = torch.bincount(values.flatten(), minlength=256 * n).view(n, 256)
        return histogram.flip(1).cumsum(1).flip(1)[:, 1:].double()

    predicted, hits = passing(bins), passing(bins[truth])
    precision = hits / (predicted + 1e-20)
    recall = hits / (truth.sum((1, 2))[:, None].double() + 1e-20)
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(f, nan=0.0)


def _checked(probabilities: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if probabilities.ndim != 3 or probabilities.shape != truth.shape or not probabilities.numel():
        raise ValueError(f"want two equal shapes [n, H, W], got {[*probabilities.shape]} and {[*truth.shape]}")
    probabilities = probabilities.float()
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError("probabilities lie outside [0, 1] or are NaN; apply the sigmoid to logits first")
    return probabilities, truth > 0


class ReferenceMetric:
    """mIoU and F as the AVSBench evaluation computes them, from batches of `batch_size` clips.

    Its quirks: a frame with empty truth scores its share of rightly blank pixels as IoU; F leaves such frames out, and
    takes the best threshold anew for every batch (0 for a batch without any sounding frame); all batches weigh the
    same, also a short last one. So both scores depend on `batch_size` and on the order of the clips.
    """

    def __init__(self, batch_size: int = 4) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size = batch_size
        self._clips: list[tuple[Tensor, Tensor]] = []  # the open batch: IoU [n], F curves of sounding frames [m, 255]
        self._batches: list[tuple[float, float]] = []  # closed batches: mIoU, F
        self._active: list[Tensor] = []

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add one clip: probabilities [n, H, W] in [0, 1]; truth [n, H, W], non-zero where an object sounds."""
        probabilities, truth = _checked(probabilities, truth)
        marked = probabilities > 0.5
        inter, union = (marked & truth).sum((1, 2)), (marked | truth).sum((1, 2))
        empty = ~truth.any(2).any(1)
        inter = torch.where(empty, (~marked).sum((1, 2)), inter)
        union = torch.where(empty, truth[0].numel(), union)
        self._clips.append((inter.double() / (union.double() + 1e-7), f_curves(probabilities[~empty], truth[~empty])))
        self._active.append(marked.double().mean((1, 2)))
        if len(self._clips) == self.batch_size:
            self._batches.append(self._batch())
            self._clips = []

    def _batch(self) -> tuple[float, float]:
        iou = torch.cat([iou for iou, _ in self._clips]).mean().item()
        curves = torch.cat([curves for _, curves in self._clips])
        return iou, curves.mean(0).max().item() if len(curves) else 0.0

    def compute(self) -> dict[str, float]:
        """Return `miou`, `f`, and `active`: the share of pixels marked, mean over frames. ValueError without clips."""
        batches = self._batches + ([self._batch()] if self._clips else [])
        if not batches:
            raise ValueError("no clips to score")
        miou, f = (sum(values) / len(batches) for values in zip(*batches, strict=True))
        return {"miou": miou, "f": f, "active": torch.cat(self._active).mean().item()}


class StrictMetric:
    """Scores that do not depend on batches or on the order of the clips; memory does not grow with the set."""

    def __init__(self) -> None:
        self._sounding = self._empty = self._blank = 0  # frames
        self._iou = self._active_sounding = self._active_empty = 0.0
        self._inter = self._union = 0  # pixels of the whole set
        self._curve = torch.zeros(255, dtype=torch.float64)

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add frames: probabilities [n, H, W] in [0, 1]; truth [n, H, W], non-zero where an object sounds."""
        probabilities, truth = _checked(probabilities, truth)
        marked = probabilities > 0.5
        sounding = truth.any(2).any(1)
        inter, union = (marked & truth).sum((1, 2)), (marked | truth).sum((1, 2))
        active = marked.double().mean((1, 2))
        self._sounding += int(sounding.sum())
        self._empty += int((~sounding).sum())
        self._iou += (inter[sounding].double() / union[sounding]).sum().item()
        self._curve += f_curves(probabilities[sounding], truth[sounding]).sum(0).cpu()
        self._active_sounding += active[sounding].sum().item()
        self._active_empty += active[~sounding].sum().item()
        self._blank += int((active[~sounding] == 0).sum())
        self._inter += int(inter.sum())
        self._union += int(union.sum())

    def compute(self) -> dict[str, float]:
        """Return the scores of the whole set; NaN where no frame of the kind was seen, ValueError without frames.

        miou, f       over frames in which something sounds; F at the one threshold that is best for the whole set
        fpr_empty     share of pixels marked, mean over frames in which nothing sounds
        blank_empty   share of those frames that are left wholly blank
        active        share of pixels marked, mean over all frames (the false-positive rate under a negative sound)
        dataset_iou   intersection over union of the whole set's pixels, where large objects weigh more
        """
        if not self._sounding + self._empty:
            raise ValueError("no frames to score")

        def share(value: float, of: int) -> float:
            return value / of if of else float("nan")

        return {
            "miou": share(self._iou, self._sounding),
            "f": share(self._curve.max().item(), self._sounding),
            "fpr_empty": share(self._active_empty, self._empty),
            "blank_empty": share(self._blank, self._empty),
            "active": share(self._active_sounding + self._active_empty, self._sounding + self._empty),
            "dataset_iou": share(self._inter, self._union),
        }
