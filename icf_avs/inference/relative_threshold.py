"""A relative threshold: what is much less sure than the surest place of its own frame is not segmented.

    logit(p) <- logit(p) - share * max(0, q),  q the 99.5 % quantile of the frame's logits

A word that fits something very well leaves the plain ground around it a little likelier than not. One offset for all
frames cannot tell that from an object that is found with effort. Not from the paper; the share is calibrated as the
offset is.
"""

from __future__ import annotations

from torch import Tensor

_SUREST = 0.005  # of the pixels


def surest(logits: Tensor) -> Tensor:
    """Mask logits [...,h,w] -> [...,1,1]: the logit of the surest place of a frame."""
    count = max(1, round(_SUREST * logits.shape[-2] * logits.shape[-1]))
    return logits.flatten(-2).topk(count, dim=-1).values[..., -1, None, None]


def subtract_max_fraction(logits: Tensor, share: Tensor) -> Tensor:
    """Mask logits [...,h,w] -> [...,h,w]; share: a scalar, 0 changes nothing."""
    return logits - share * surest(logits).clamp(min=0)
