"""F over 255 thresholds from one histogram a frame, in place of 255 passes over its pixels.

F_t = 1.3 * precision * recall / (0.3 * precision + recall), P = probability >= t   (PROTOCOLS, section 2)
"""

from __future__ import annotations

import torch
from torch import Tensor

# In float32 the last one is 1.0, and some of the others are not what NumPy's linspace gives: it must be torch's.
THRESHOLDS = torch.linspace(0, 1 - 1e-10, 255, dtype=torch.float32)
BETA_SQUARED = 0.3


def f_curves(probabilities: Tensor, truth: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """F of every frame at every threshold: [n, 255] of `dtype`, 0 where it is undefined.

    probabilities  float32 [n, H, W] in [0, 1]
    truth          [n, H, W], bool, or the weights in [0, 1] of soft masks: a pixel of weight w is a hit of w
    dtype          float32 rounds as the reference does
    """
    predicted, hits = torch.zeros(2, len(truth), len(THRESHOLDS), dtype=dtype, device=truth.device)
    for frame, (p, g) in enumerate(zip(probabilities, truth, strict=True)):  # one by one, as it fits into the cache
        reached = _reached(p.flatten())
        predicted[frame] = _passing(torch.bincount(reached, minlength=256))
        hits[frame] = _passing(torch.bincount(reached, g.flatten().double(), minlength=256))
    precision = hits / (predicted + 1e-20)
    recall = hits / (truth.sum((1, 2), dtype=torch.float64).to(dtype)[:, None] + 1e-20)
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(f, nan=0.0)


def _reached(probabilities: Tensor) -> Tensor:
    """How many thresholds each of the values [n] reaches: int32 of 1..255.

    The thresholds lie 1/254 apart but for rounding, so a value reaches all below the one nearest to it and none above,
    and only that one is compared: exact, also for values on a threshold, and far faster than a search.
    """
    nearest = (probabilities * (len(THRESHOLDS) - 1) + 0.5).int()
    return nearest + (probabilities >= THRESHOLDS.to(nearest.device).index_select(0, nearest))


def _passing(histogram: Tensor) -> Tensor:
    """What reaches each of the 255 thresholds, from what reaches just so many of them [256]."""
    return histogram.flip(0).cumsum(0).flip(0)[1:]
