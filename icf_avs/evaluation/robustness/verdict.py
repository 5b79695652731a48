"""Whether a model listens: how much of its mIoU is left under a sound that nothing in the picture makes.

Off-screen sound decides; noise does where a set knows no off-screen sound. A deaf model keeps its whole mIoU (ratio
1), an oracle keeps nothing (0); half way lies `DEAF_ABOVE`. How sure the ratio is says a bootstrap: clips are drawn
anew, with replacement, and the middle 95 % of the ratios they give is the interval. Where it lies on both sides of the
boundary, the clips do not decide. A model that marks next to nothing even with the true sound (mIoU below
`BLIND_BELOW`) is neither deaf nor does it listen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icf_avs.evaluation.robustness.negative_audio import SOUND_NAMES

DEAF_ABOVE = 0.5
BLIND_BELOW = 0.05
RESAMPLES = 2000
Label = Literal["deaf", "listens", "undecided"]
_RANK = {"deaf": 2, "undecided": 1, "listens": 0}


@dataclass(frozen=True)
class Verdict:
    """Whether a model listens on one set, and the numbers that decided: mIoU with the true sound and with `audio`."""

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
    def blind(self) -> bool:
        """Whether too little is marked with the true sound for the ratio to mean anything."""
        return not self.true >= BLIND_BELOW  # NaN too

    def summary(self) -> str:
        """The numbers, in words."""
        if self.blind:
            return f"mIoU {self.true:.3f} with the true sound, below {BLIND_BELOW}: too little to tell."
        interval = f"95 % interval over clips {self.low:.2f} to {self.high:.2f}"
        if math.isnan(self.low):
            interval = "no interval from a single clip"
        return (
            f"mIoU {self.true:.3f} with the true sound and {self.negative:.3f} under {SOUND_NAMES[self.audio]}: "
            f"{self.ratio:.2f} of it is left ({interval}); above {DEAF_ABOVE} a model counts as deaf."
        )

    def sentence(self, name: str) -> str:
        """What to say of the model of that name."""
        if self.blind:
            means = "marks too little to tell whether it listens"
        else:
            deaf = "is deaf: it marks much the same whatever it hears"
            means = {"listens": "listens", "deaf": deaf, "undecided": "is undecided: take more clips"}[self.label]
        return f"{name} {means}. On {self.test_set} ({self.clips} clips): {self.summary()}"


def judge(ious: Mapping[str, np.ndarray], frames: np.ndarray, test_set: str, seed: int = 0) -> Verdict:
    """The verdict on one set.

    ious    by kind of sound, [clips]: sum of the IoU over the frames of a clip in which something sounds; NaN for a
            clip without a sound of that kind, which then does not count under the true sound either
    frames  [clips], how many frames these are
    seed    of the bootstrap
    """
    audio = "offscreen" if not np.isnan(ious["offscreen"]).all() else "noise"
    there = ~np.isnan(ious[audio])
    true, negative, count = ious["true"][there], ious[audio][there], frames[there].sum()
    means = [float(kind.sum() / count) if count else math.nan for kind in (true, negative)]
    low, high = interval(true, negative, seed)
    label: Label = "undecided"
    if means[0] >= BLIND_BELOW and not math.isnan(low):
        label = "deaf" if low > DEAF_ABOVE else "listens" if high <= DEAF_ABOVE else "undecided"
    return Verdict(label, test_set, audio, *means, len(true), low, high)


def interval(true: np.ndarray, negative: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of sum(negative) / sum(true) when the clips are drawn anew (percentile bootstrap).

    true, negative: [clips], IoU summed over the same frames, so that their number drops out of the ratio of the means.
    NaN for fewer than two clips, which tell nothing of their spread, and where no draw gives a ratio.
    """
    if len(true) < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).multinomial(len(true), np.full(len(true), 1 / len(true)), RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (draws @ negative) / (draws @ true)
    ratios = ratios[~np.isnan(ratios)]
    if not len(ratios):
        return math.nan, math.nan
    low, high = np.quantile(ratios, (0.025, 0.975), method="inverted_cdf")  # infinite ones bar interpolation
    return float(low), float(high)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The verdict on all sets: the one that speaks least for the model, of those where it marks anything."""
    seeing = [verdict for verdict in verdicts if not verdict.blind]
    return max(seeing, key=lambda verdict: (_RANK[verdict.label], verdict.ratio)) if seeing else verdicts[0]
