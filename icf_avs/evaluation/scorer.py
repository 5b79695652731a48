"""The scores of a model under one sound, by every protocol: those of `icf evaluate` and of its robustness table."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor

from icf_avs.evaluation.metrics import DatasetMetric, ReferenceMetric, StrictMetric
from icf_avs.evaluation.score_tables import DEFAULT_SETTINGS, Scores, Settings


class Scorer:
    """Collects predictions, clip by clip.

    clips, frames  how many were scored
    """

    def __init__(self, settings: Settings = DEFAULT_SETTINGS) -> None:
        # One process scores the whole set, also where a run has several: nothing is to be gathered.
        self._reference = ReferenceMetric(settings.batch_size, settings.threshold, sync_on_compute=False)
        self._strict = StrictMetric(settings.threshold, sync_on_compute=False)
        self._dataset = DatasetMetric(settings.threshold, sync_on_compute=False)
        self._threshold = settings.threshold
        self.clips = self.frames = self._silent = 0
        self._share = self._root = 0.0

    def update(self, probabilities: Tensor, truth: Tensor, silent: Tensor) -> None:
        """Add frames of one clip: probabilities [n, H, W] in [0, 1]; truth bool [n, H, W], the original mask.

        silent: bool [n], the frames in which nothing should be segmented.
        """
        if not len(probabilities):
            return
        for metric in (self._reference, self._strict, self._dataset):
            metric.update(probabilities, truth)
        share = (probabilities[silent] > self._threshold).double().mean((1, 2))
        self.clips += 1
        self.frames += len(probabilities)
        self._silent += len(share)
        self._share += share.sum().item()
        self._root += share.sqrt().sum().item()

    def compute(self) -> Scores:
        """What the metrics return and `fpr`, by protocol: reference, strict, dataset, dataset-2classes.

        fpr: share of the pixels segmented, mean over the silent frames; NaN without any, as are all scores without any
        frame.
        """
        if not self.frames:
            return {name: dict.fromkeys(("miou", "f", "fpr"), nan) for name in ("reference", "strict")}
        scores = {"reference": self._reference.compute(), "strict": self._strict.compute()}
        whole = self._dataset.compute()
        scores["dataset"] = {name: whole[name] for name in ("miou", "f")}
        scores["dataset-2classes"] = {name: whole[f"{name}_2classes"] for name in ("miou", "f")}
        fpr = self._share / self._silent if self._silent else nan
        return {protocol: {**values, "fpr": fpr} for protocol, values in scores.items()}

    def null(self) -> float:
        """S = sqrt(segmented / pixels), mean over the silent frames; NaN without any."""
        return self._root / self._silent if self._silent else nan


def empty_frames(truth: Tensor) -> Tensor:
    """In which frames of truth bool [n, H, W] nothing sounds: bool [n]."""
    return ~truth.any(2).any(1)


def every_frame(truth: Tensor) -> Tensor:
    """All frames: nothing in the image makes a negative sound."""
    return torch.ones(len(truth), dtype=torch.bool)
