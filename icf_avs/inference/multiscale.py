"""Merge masks of two scales; the weight of the smaller scale grows with the segmented area.

    logit(p) = (1 - w) large(p) + w small(p)           w = min(1, A / LARGE) / 2
    A = share of positions within NEAR of the maximum over both masks, in the mask where that share is larger

Only at the small scale does the receptive field of a classifier cover a large object as a whole and leave out the
background around it; an object of a few cells is found only at the large scale. A constant added to both inputs is
added to the output, so the offset can be calibrated on the output. Not from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.inference.relative_threshold import surest

LARGE = 0.15  # share of the frame from which both scales have equal weight
NEAR = 2.0  # logits


def merge_scales(large: Tensor, small: Tensor) -> Tensor:
    """Merge mask logits of frames [B,T,h,w] with those of their smaller copies [B,T,h',w'] -> [B,T,h,w]."""
    small = F.interpolate(small, large.shape[-2:], mode="bilinear")
    logits = torch.stack([large, small])
    found = logits > surest(logits).amax(0) - NEAR
    extent = found.float().mean((-2, -1), keepdim=True).amax(0)
    return torch.lerp(large, small, (extent / LARGE).clamp(max=1) / 2)
