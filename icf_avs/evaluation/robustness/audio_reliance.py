"""Decide whether a model uses the audio: the share of its mIoU that remains under a sound of no visible object.

Off-screen sound decides, or noise where a set has no known off-screen sound. A model that ignores the audio keeps its
whole mIoU (ratio 1), an oracle keeps none (0); the boundary `IGNORES_ABOVE` lies half way. A bootstrap over clips
(resampling with replacement) gives the 95 % interval of the ratio. The result is undecided if the interval includes the
boundary, or if the model segments almost nothing even with the true sound (mIoU below `MIN_MIOU`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

IGNORES_ABOVE = 0.5
MIN_MIOU = 0.05
RESAMPLES = 2000
_NAMES = {"offscreen": "off-screen sound", "noise": "white noise as loud as the clip"}
Label = Literal["ignores the audio", "uses the audio", "undecided"]
_RANK = {"ignores the audio": 2, "undecided": 1, "uses the audio": 0}


@dataclass(frozen=True)
class Verdict:
    """Whether a model uses the audio on one set, and the evidence: mIoU with the true sound and with `audio`."""

    label: Label
    test_set: str
    audio: str
    true: float
    negative: float
    clips: int
    low: float = math.nan  # of the 95 % interval of the ratio; NaN without one
    high: float = math.nan

    @property
    def ratio(self) -> float:
        return self.negative / self.true if self.true else math.nan

    @property
    def segments_too_little(self) -> bool:
        """True if too little is segmented with the true sound for the ratio to be meaningful."""
        return not self.true >= MIN_MIOU  # NaN too

    def sentence(self, name: str) -> str:
        """Return the verdict on the model called `name` as text, with the numbers."""
        where = f"On {self.test_set} ({self.clips} clips): mIoU {self.true:.3f} with the true sound"
        if self.segments_too_little:
            means = "segments too little to tell whether it uses the audio"
            return f"{name} {means}. {where}, below {MIN_MIOU}: too little to tell."
        means = "is undecided: take more clips" if self.label == "undecided" else self.label
        interval = f"95 % interval over clips {self.low:.2f} to {self.high:.2f}"
        if math.isnan(self.low):
            interval = "no interval from a single clip"
        return (
            f"{name} {means}. {where} and {self.negative:.3f} under {_NAMES[self.audio]}: {self.ratio:.2f} of it is "
            f"left ({interval}); above {IGNORES_ABOVE} a model ignores the audio."
        )


def judge(ious: Mapping[str, np.ndarray], frames: np.ndarray, test_set: str, seed: int = 0) -> Verdict:
    """Return the verdict on one set.

    ious    by kind of sound, [clips]: IoU summed over the frames of a clip in which something sounds; NaN for a clip
            without a sound of that kind, which is then left out under the true sound too
    frames  [clips], the number of these frames
    seed    of the bootstrap
    """
    audio = "offscreen" if not np.isnan(ious["offscreen"]).all() else "noise"
    has_audio = ~np.isnan(ious[audio])
    true, negative, count = ious["true"][has_audio], ious[audio][has_audio], frames[has_audio].sum()
    true_miou, negative_miou = (float(ious.sum() / count) if count else math.nan for ious in (true, negative))
    low, high = interval(true, negative, seed)
    label: Label = "undecided"
    if true_miou >= MIN_MIOU and not math.isnan(low):
        if low > IGNORES_ABOVE:
            label = "ignores the audio"
        elif high <= IGNORES_ABOVE:
            label = "uses the audio"
    return Verdict(label, test_set, audio, true_miou, negative_miou, len(true), low, high)


def interval(true: np.ndarray, negative: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of sum(negative) / sum(true) from a percentile bootstrap over clips.

    true, negative: [clips], IoU summed over the same frames, so that the number of frames cancels in the ratio. NaN for
    fewer than two clips, which do not show the spread, and if no resample gives a ratio.
    """
    if len(true) < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).multinomial(len(true), np.full(len(true), 1 / len(true)), RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (draws @ negative) / (draws @ true)
    ratios = ratios[~np.isnan(ratios)]
    if not len(ratios):
        return math.nan, math.nan
    low, high = np.quantile(ratios, (0.025, 0.975), method="inverted_cdf")  # infinite ratios cannot be interpolated
    return float(low), float(high)


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the least favourable verdict over all sets, ignoring sets on which the model segments too little."""
    decisive = [verdict for verdict in verdicts if not verdict.segments_too_little]
    return max(decisive, key=lambda verdict: (_RANK[verdict.label], verdict.ratio)) if decisive else verdicts[0]
