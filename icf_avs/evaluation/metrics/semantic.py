"""Scores of semantic audio-visual segmentation (AVSS: 71 classes, background first), PROTOCOLS section 2.

For every frame and class, from hard labels:

    IoU = inter / (union + 2.2e-16)
    F   = 1.3 * precision * recall / (0.3 * precision + recall), 0 where undefined

A class counts in a frame if it occurs in the ground truth or in the prediction. Its score is its sum over its count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icf_avs.errors import UserError
from icf_avs.evaluation.metrics.binary import BETA_SQUARED, ExactMetric
from icf_avs.evaluation.metrics.dataset_level import EPSILON


class SemanticMetric(ExactMetric):
    """mIoU and F over classes, averaged as in the AVSBench evaluation and, beside it, without its quirks.

    Quirks of the reference: its mean covers all classes, and those that never occur score 0. Its "without background"
    drops the last class, although background is the first. It also scores the blank frames that pad a clip from 5 to 10
    frames; leave `valid` out to do the same. It sums in float32 batch by batch, which affects the sixth digit over a
    whole test set. To match that digit too, make each update one batch of its loader.

    All other scores depend neither on batches nor on how frames are distributed over processes.
    """

    full_state_update = False
    reference_sums: Tensor
    sums: Tensor
    counts: Tensor
    truth_counts: Tensor
    inter: Tensor
    predicted: Tensor
    true: Tensor

    def __init__(self, classes: int = 71, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if classes < 2:
            raise ValueError(f"classes is {classes}; it must be at least 2, background among them")
        self.classes = classes
        self.add_sums("reference_sums", size=(2, classes), dtype=torch.float32)  # IoU and F, rounded as in AVSBench
        self.add_sums("sums", size=(2, classes), dtype=torch.float64)
        self.add_sums("counts", "truth_counts", size=(classes,))  # frames
        self.add_sums("inter", "predicted", "true", size=(classes,))  # pixels

    def update(self, prediction: Tensor, truth: Tensor, valid: Tensor | None = None) -> None:
        """Add frames.

        prediction  class ids [n, H, W], or logits [n, classes, H, W], the class with the largest softmax is used
        truth       class ids [n, H, W], 0 for background
        valid       bool [n], False for padding frames, which are not scored; None: all frames are valid

        Raises UserError if truth holds an invalid class id, ValueError if prediction does and for wrong shapes.
        """
        if prediction.is_floating_point() and prediction.ndim == 4 and prediction.shape[1] == self.classes:
            prediction = likeliest(prediction)
        for name, ids in (("prediction", prediction), ("truth", truth)):
            if ids.ndim != 3 or ids.is_floating_point() or ids.shape != truth.shape or not ids.numel():
                raise ValueError(f"{name}: want class ids [n, H, W], got {ids.dtype} {[*ids.shape]}")
        if valid is not None:
            if valid.dtype != torch.bool or valid.shape != truth.shape[:1]:
                raise ValueError(f"valid: want bool [{len(truth)}], got {valid.dtype} {[*valid.shape]}")
            prediction, truth = prediction[valid], truth[valid]
        prediction, truth = prediction.long(), truth.long()
        for name, ids, error in (("prediction", prediction, ValueError), ("truth", truth, UserError)):
            if ids.numel() and not (ids.min() >= 0 and ids.max() < self.classes):
                found = f"{int(ids.min())}..{int(ids.max())}"
                raise error(f"{name} holds class ids {found}; they must lie in 0..{self.classes - 1}")

        predicted, true = self._areas(prediction), self._areas(truth)
        inter = self._areas(torch.where(prediction == truth, truth, self.classes))
        union = predicted + true - inter
        scores = _scores(inter.float(), predicted.float(), true.float(), union.float())
        batch = torch.zeros_like(self.reference_sums)
        for frame in scores:
            batch = batch + frame  # one frame at a time, to round as the reference does
        self.reference_sums = self.reference_sums + batch
        self.sums = self.sums + scores.double().sum(0)
        self.counts = self.counts + (union > 0).sum(0)
        self.truth_counts = self.truth_counts + (true > 0).sum(0)
        self.inter = self.inter + inter.sum(0)
        self.predicted = self.predicted + predicted.sum(0)
        self.true = self.true + true.sum(0)

    def _areas(self, ids: Tensor) -> Tensor:
        """Return the pixels of each class in each frame, [n, classes]; the id `classes` means no class."""
        bins = self.classes + 1
        first = bins * torch.arange(len(ids), device=ids.device)[:, None, None]
        return torch.bincount((ids + first).flatten(), minlength=bins * len(ids)).view(-1, bins)[:, :-1]

    def compute(self) -> dict[str, float]:
        """Return the scores of the whole set, for IoU and F each. Raises ValueError without frames.

        miou, f                   the reference: mean over all classes, with background and with unseen classes as 0
        *_reference_nobg          the reference's "without background": the last class is dropped
        *_nobg                    background is dropped
        *_strict                  mean over classes, including background, that are in the ground truth of some frame
        dataset_miou, dataset_f   IoU and F of each class over all pixels of the set (dataset_level.py), mean over the
                                  classes that occur in ground truth or prediction, as in DDESeg
        dataset_miou_all          the same mIoU over all classes, with those that never occur as 0, as in CAVP
        """
        if not self.counts.any():
            raise ValueError("no frames to score")
        reference = torch.nan_to_num(self.reference_sums / self.counts, nan=0.0)
        exact = torch.nan_to_num(self.sums / self.counts, nan=0.0)
        inter, predicted, true = self.inter.double(), self.predicted, self.true
        union = predicted + true - inter
        occurs = union > 0
        iou = (inter / union)[occurs]
        weighted = (1 + BETA_SQUARED) * inter
        f = (weighted / (weighted + BETA_SQUARED * (true - inter) + (predicted - inter)))[occurs]
        scores = {
            "dataset_miou": iou.mean().item(),
            "dataset_f": f.mean().item(),
            "dataset_miou_all": iou.sum().item() / self.classes,
        }
        for row, name in enumerate(("miou", "f")):
            scores[name] = reference[row].mean().item()
            scores[f"{name}_reference_nobg"] = reference[row, :-1].mean().item()
            scores[f"{name}_nobg"] = exact[row, 1:].mean().item()
            scores[f"{name}_strict"] = exact[row, self.truth_counts > 0].mean().item()
        return scores


def likeliest(logits: Tensor) -> Tensor:
    """Convert logits [n, classes, H, W] to class ids [n, H, W].

    The softmax is applied first, as in the reference: its rounding creates ties that the logits do not have.
    """
    return logits.float().softmax(1).argmax(1)


def _scores(inter: Tensor, predicted: Tensor, true: Tensor, union: Tensor) -> Tensor:
    """Return IoU and F [n, 2, classes] from areas [n, classes] in pixels."""
    precision, recall = inter / predicted, inter / true
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.stack([inter / (EPSILON + union), torch.nan_to_num(f, nan=0.0)], 1)
