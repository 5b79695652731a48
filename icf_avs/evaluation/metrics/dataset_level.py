"""Dataset-level scores of binary masks: pixels are pooled over the whole set, not averaged over frames (CAVP, DDESeg).

    IoU = inter / union
    F   = 1.3 * TP / (1.3 * TP + 0.3 * FN + FP)        (1.3 P R / (0.3 P + R) with precision and recall of the set)

There is one mask, probability > threshold, without a search over 255 thresholds. Large objects weigh more than small
ones. The public code of both averages over TWO classes, background and object. Most pixels are background and most of
these are easy, so this mean is far above the score of the object alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from icf_avs.evaluation.metrics.binary import BETA_SQUARED, ExactMetric, areas, checked, checked_threshold

EPSILON = 2.220446049250313e-16  # numpy.spacing(1)


class DatasetMetric(ExactMetric):
    """IoU and F over all pixels of the set, for the object alone and as the mean of background and object.

    Depends neither on batches, nor on the frame order, nor on how frames are distributed over processes.
    """

    full_state_update = False
    inter: Tensor
    predicted: Tensor
    true: Tensor
    pixels: Tensor

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = checked_threshold(threshold)
        self.add_sums("inter", "predicted", "true", "pixels", dtype=torch.float64)

    def update(self, probabilities: Tensor, truth: Tensor) -> None:
        """Add frames. Arguments and errors as in `AVSBenchMetric.update`."""
        probabilities, truth = checked(probabilities, truth)
        inter, _, predicted = areas(probabilities, truth, self.threshold)
        self.inter = self.inter + inter.sum()
        self.predicted = self.predicted + predicted.sum()
        self.true = self.true + truth.sum(dtype=torch.float64)
        self.pixels = self.pixels + truth.numel()

    def compute(self) -> dict[str, float]:
        """Return the scores. Raises ValueError without frames.

        miou, f                      of the object; NaN if no pixel is segmented and none is true
        miou_2classes, f_2classes    mean of background and object; a class that never occurs is 0 in the mIoU and is
                                     left out of the F, as in CAVP
        """
        if not self.pixels:
            raise ValueError("no frames to score")
        # background and object
        predicted = torch.stack([self.pixels - self.predicted, self.predicted])
        true = torch.stack([self.pixels - self.true, self.true])
        hits = torch.stack([self.pixels - self.predicted - self.true + self.inter, self.inter])
        union = predicted + true - hits
        weighted = (1 + BETA_SQUARED) * hits
        f = weighted / (weighted + BETA_SQUARED * (true - hits) + (predicted - hits))  # 0 / 0 is NaN
        scores = {
            "miou": hits[1] / union[1],
            "f": f[1],
            "miou_2classes": (hits / (EPSILON + union)).mean(),
            "f_2classes": f.nanmean(),
        }
        return {name: score.item() for name, score in scores.items()}
