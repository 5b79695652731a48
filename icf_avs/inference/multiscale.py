"""Masks at two scales, those of a smaller copy weighted by how much of the frame is segmented.

    logit(p) = (1 - w) large(p) + w small(p)           w = min(1, A / LARGE) / 2
    A = the larger share, in one of the two masks, of places that are within NEAR of the surest place of both

A classifier's view covers a large object whole in the small copy alone, and spares the ground around it; an object of a
few cells there is found in the large one alone. Adding a constant to both adds it to the result, so the offset
is calibrated on it. Not from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.inference.relative_threshold import surest

LARGE = 0.15  # share of the frame from which both count alike
NEAR = 2.0  # logits


def merge_scales(large: Tensor, small: Tensor) -> Tensor:
    """Mask logits of a frame [B,T,h,w] and of its smaller copy [B,T,h',w'] -> [B,T,h,w]."""
    small = F.interpolate(small, large.shape[-2:], mode="bilinear")
    logits = torch.stack([large, small])
    found = logits > surest(logits).amax(0) - NEAR
    extent = found.float().mean((-2, -1), keepdim=True).amax(0)
    return torch.lerp(large, small, (extent / LARGE).clamp(max=1) / 2)
