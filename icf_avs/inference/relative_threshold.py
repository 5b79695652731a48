"""Relative threshold: suppress logits far below the maximum of the frame.

    logit(p) <- logit(p) - share * max(0, q),  q the 99.5 % quantile of the frame's logits

Where a word fits an object very well, the background around it gets logits slightly above zero. A single offset for all
frames cannot separate these from a weakly detected object. Not from the paper; the share is calibrated like the offset.
"""

from __future__ import annotations

from torch import Tensor

_TOP_SHARE = 0.005  # of the pixels


def robust_max(logits: Tensor) -> Tensor:
    """Return a robust maximum (99.5 % quantile) of each frame: mask logits [...,h,w] -> [...,1,1]."""
    count = max(1, round(_TOP_SHARE * logits.shape[-2] * logits.shape[-1]))
    return logits.flatten(-2).topk(count, dim=-1).values[..., -1, None, None]


def subtract_max_fraction(logits: Tensor, share: Tensor) -> Tensor:
    """Apply the relative threshold: mask logits [...,h,w] -> [...,h,w]; share: a scalar, 0 changes nothing."""
    return logits - share * robust_max(logits).clamp(min=0)
