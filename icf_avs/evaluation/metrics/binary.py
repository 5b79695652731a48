"""Scores of binary audio-visual segmentation (S4, MS3) under two protocols.

`AVSBenchMetric` reproduces the public AVSBench evaluation, quirks included, so that scores can be compared with
published ones. `StrictMetric` does not depend on batches and scores frames in which nothing sounds separately.

    IoU = sum(P * G) / sum(max(P, G)), P = probability > 0.5 (or another threshold)
    F_t = 1.3 * precision * recall / (0.3 * precision + recall), P = probability >= t, for 255 thresholds t, from one
          histogram per frame instead of 255 passes over its pixels   (PROTOCOLS, section 2)

The ground truth G is bool or integer, non-zero where an object sounds, or float in [0, 1] for soft masks, in which each
pixel counts by its value, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor
from torchmetrics import Metric

# Must be torch.linspace: in float32 the last value is 1.0, and some others differ from those of numpy.linspace.
THRESHOLDS = torch.linspace(0, 1 - 1e-10, 255, dtype=torch.float32)
BETA_SQUARED = 0.3


def f_curves(probabilities: Tensor, truth: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return F of every frame at every threshold: [n, 255] of `dtype`, 0 where undefined.

    probabilities  float32 [n, H, W] in [0, 1]
    truth          [n, H, W], bool, or weights in [0, 1] for soft masks: a pixel of weight w counts as w hits
    dtype          float32 rounds as the reference does
    """
    predicted, hits = torch.zeros(2, len(truth), len(THRESHOLDS), dtype=dtype, device=truth.device)
    for frame, (p, g) in enumerate(zip(probabilities, truth, strict=True)):  # one frame at a time fits in cache
        reached = _thresholds_reached(p.flatten())
        predicted[frame] = _cumulative_counts(torch.bincount(reached, minlength=256))
        hits[frame] = _cumulative_counts(torch.bincount(reached, g.flatten().double(), minlength=256))
    precision = hits / (predicted + 1e-20)
    recall = hits / (truth.sum((1, 2), dtype=torch.float64).to(dtype)[:, None] + 1e-20)
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(f, nan=0.0)


def _thresholds_reached(probabilities: Tensor) -> Tensor:
    """Return how many thresholds each value [n] reaches: int32 in 1..255.

    The thresholds lie 1/254 apart except for rounding. A value therefore reaches all thresholds below the nearest one
    and none above it, so only the nearest is compared. This is exact, also on a threshold, and much faster than a
    search.
    """
    nearest = (probabilities * (len(THRESHOLDS) - 1) + 0.5).int()
    return nearest + (probabilities >= THRESHOLDS.to(nearest.device).index_select(0, nearest))


def _cumulative_counts(histogram: Tensor) -> Tensor:
    """Return how much reaches each of the 255 thresholds, from a histogram [256] of the thresholds reached."""
    return histogram.flip(0).cumsum(0).flip(0)[1:]


class ExactMetric(Metric):
    """A metric that moves between devices but keeps the dtypes of its states. `set_dtype`, and `to` or `half` of a
    module that contains the metric, would otherwise round pixel counts to a precision that cannot represent them.
    """

    is_differentiable = False
    higher_is_better = True

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        return cast(Self, super()._apply(lambda state: state.to(fn(state).device), exclude_state))

    def add_sums(self, *names: str, size: tuple[int, ...] = (), dtype: torch.dtype = torch.int64) -> None:
        """Add states that start at zero and are summed over processes."""
        for name in names:
            self.add_state(name, torch.zeros(size, dtype=dtype), "sum")


class AVSBenchMetric(ExactMetric):
    """mIoU and F as the AVSBench evaluation computes them, from batches of `batch_size` clips.

    Quirks of the reference: the IoU of a frame with empty truth is the share of pixels correctly left blank. F leaves
    such frames out and takes the best threshold separately for every batch (0 for a batch without sounding frames). All
    batches have the same weight, including a short last one. Both scores thus depend on `batch_size` and on the clip
    order. Sums are rounded to float32 as in the reference, which affects the fifth or sixth digit on a large set.

    With several processes, each forms batches from the clips it receives, in their order; its last batch may be short.
    Results equal those of one process if each process gets whole batches of the reference's loader, the short one last.
    A sampler that distributes single clips forms other batches, and one that repeats clips counts them twice.

    `threshold` sets the mask used for IoU and `active`. It does not affect F, which uses 255 thresholds of its own.
    """

    full_state_update = True  # else torchmetrics' forward() would merge states and split batches
    batches: Tensor
    iou: Tensor
    f: Tensor
    frames: Tensor
    active: Tensor
    open_counts: Tensor
    open_iou: Tensor
    open_curve: Tensor

    def __init__(self, batch_size: int = 4, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.batch_size, self.threshold = batch_size, checked_threshold(threshold)
        self.add_sums("batches", "frames")
        self.add_sums("iou", dtype=torch.float32)  # over batches
        self.add_sums("f", "active", dtype=torch.float64)
        # the unfinished batch: one row, or one row per process after a sync
        self.add_state("open_counts", torch.zeros(1, 3, dtype=torch.int64), "cat")  # clips, frames, sounding frames
        self.add_state("open_iou", torch.zeros(1, dtype=torch.float64), "cat")
        self.add_state("open_curve", torch.zeros(1, len(THRESHOLDS), dtype=torch.float32), "cat")

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add one clip: probabilities [n, H, W] in [0, 1]; truth [n, H, W], non-zero (or soft) where an object sounds.

        Raises ValueError for unequal shapes, and for probabilities or soft truth outside [0, 1].
        """
        probabilities, truth = checked(probabilities, truth)
        inter, union, predicted = areas(probabilities, truth, self.threshold)
        pixels = truth[0].numel()
        sounding = truth.sum((1, 2)) > 0
        inter = torch.where(sounding, inter, pixels - predicted)
        union = torch.where(sounding, union, pixels)
        iou = inter.float() / (union.float() + 1e-7)
        curve = self.open_curve[0]
        for f in f_curves(probabilities[sounding], truth[sounding], torch.float32):
            curve = curve + f  # one frame at a time, to round as the reference does
        clips, frames, sounds = self.open_counts[0].tolist()
        counts = [clips + 1, frames + len(iou), sounds + int(sounding.sum())]
        self.open_counts = self.open_counts.new_tensor([counts])
        self.open_iou = self.open_iou + iou.double().sum()
        self.open_curve = curve[None]
        self.frames = self.frames + len(iou)
        self.active = self.active + (predicted / pixels).sum()
        if counts[0] == self.batch_size:
            self.batches, self.iou, self.f = self._with_open_batch()
            for name in ("open_counts", "open_iou", "open_curve"):
                setattr(self, name, torch.zeros_like(getattr(self, name)))

    def _with_open_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return `batches`, `iou` and `f` including the unfinished batch of every process, unless it is empty."""
        batches, iou, f = self.batches, self.iou, self.f
        curves = self.open_curve.view(-1, len(THRESHOLDS))
        rows = zip(self.open_counts.view(-1, 3).tolist(), self.open_iou.flatten(), curves, strict=True)
        for (clips, frames, sounding), open_iou, curve in rows:
            if clips:
                batches = batches + 1
                iou = iou + open_iou.float() / frames
                f = f + (curve / max(sounding, 1)).max()
        return batches, iou, f

    def compute(self) -> dict[str, float]:
        """Return `miou`, `f`, and `active`, the share of segmented pixels averaged over frames. Raises ValueError
        without clips.
        """
        batches, iou, f = self._with_open_batch()
        if not batches:
            raise ValueError("no clips to score")
        scores = {"miou": iou / batches, "f": f / batches, "active": self.active / self.frames}
        return {name: score.item() for name, score in scores.items()}


class StrictMetric(ExactMetric):
    """Scores that depend neither on batches, nor on the clip order, nor on how clips are distributed over processes."""

    full_state_update = False
    sounding: Tensor
    empty: Tensor
    blank: Tensor
    iou: Tensor
    curve: Tensor
    active_sounding: Tensor
    active_empty: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = checked_threshold(threshold)
        self.add_sums("sounding", "empty", "blank")  # frames
        self.add_sums("iou", "active_sounding", "active_empty", dtype=torch.float64)
        self.add_sums("curve", size=(len(THRESHOLDS),), dtype=torch.float64)

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add frames. Arguments and errors as in `AVSBenchMetric.update`."""
        probabilities, truth = checked(probabilities, truth)
        inter, union, predicted = areas(probabilities, truth, self.threshold)
        sounding = truth.sum((1, 2)) > 0
        active = predicted / truth[0].numel()
        self.sounding = self.sounding + sounding.sum()
        self.empty = self.empty + (~sounding).sum()
        self.iou = self.iou + (inter[sounding] / union[sounding]).sum()
        self.curve = self.curve + f_curves(probabilities[sounding], truth[sounding]).sum(0)
        self.active_sounding = self.active_sounding + active[sounding].sum()
        self.active_empty = self.active_empty + active[~sounding].sum()
        self.blank = self.blank + (active[~sounding] == 0).sum()

    def compute(self) -> dict[str, float]:
        """Return the scores of the whole set; NaN if there was no frame of that kind. Raises ValueError without frames.

        miou, f       over frames in which something sounds; F at the single threshold that is best for the whole set
        fpr_empty     share of segmented pixels, averaged over frames in which nothing sounds
        blank_empty   share of those frames that are left completely blank
        active        share of segmented pixels, averaged over all frames (false-positive rate under a negative sound)
        """
        frames = self.sounding + self.empty
        if not frames:
            raise ValueError("no frames to score")
        scores = {  # 0 / 0 is NaN
            "miou": self.iou / self.sounding,
            "f": self.curve.max() / self.sounding,
            "fpr_empty": self.active_empty / self.empty,
            "blank_empty": self.blank.double() / self.empty,
            "active": (self.active_sounding + self.active_empty) / frames,
        }
        return {name: score.item() for name, score in scores.items()}


def checked_threshold(threshold: float) -> float:
    """Return `threshold`. Raises ValueError unless it lies in (0, 1)."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it must lie between 0 and 1")
    return threshold


def checked(probabilities: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as float32, truth as weights in [0, 1]. Raises ValueError as in `update` of the metrics."""
    if probabilities.ndim != 3 or probabilities.shape != truth.shape or not probabilities.numel():
        raise ValueError(f"want two equal shapes [n, H, W], got {[*probabilities.shape]} and {[*truth.shape]}")
    probabilities = probabilities.float()
    if not _within_unit(probabilities):
        raise ValueError("probabilities lie outside [0, 1] or are NaN; apply the sigmoid to logits first")
    if not truth.is_floating_point():
        return probabilities, (truth > 0).float()
    if not _within_unit(truth):
        raise ValueError("soft truth lies outside [0, 1] or is NaN; give masks of 0 and 255 as integers")
    return probabilities, truth.float()


def _within_unit(values: Tensor) -> bool:
    low, high = values.aminmax()  # NaN if any value is NaN
    return bool((low >= 0) & (high <= 1))


def areas(probabilities: Tensor, truth: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return intersection, union and number of segmented pixels of every frame: float64 [n]."""
    mask = probabilities > threshold
    inter = (truth * mask).sum((1, 2), dtype=torch.float64)
    union = torch.maximum(truth, mask.float()).sum((1, 2), dtype=torch.float64)
    return inter, union, mask.sum((1, 2)).double()


def g_score(positive: float, negative: float) -> float:
    """Return the harmonic mean of m+ and 1 - m-: G-mIoU from two mIoU, G-F from two F. NaN if either is NaN.

    positive   m+, the score under the true sound, in [0, 1]
    negative   m-, the score under negative sounds against the original masks, in [0, 1]; lower is better

        G = 2 * m+ * (1 - m-) / (m+ + 1 - m-), 0 where both parts are 0   (PROTOCOLS: inferred from published values)

    Raises ValueError for a score outside [0, 1], such as a percentage.
    """
    for name, value in (("positive", positive), ("negative", negative)):
        if value < 0 or value > 1:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
    both = positive + (1 - negative)
    return 2 * positive * (1 - negative) / both if both else 0.0
