"""Merge masks of two scales; the weight of the smaller scale grows with the segmented area.

    logit(p) = (1 - w) full(p) + w reduced(p)          w = min(1, A / LARGE_OBJECT_AREA) / 2
    A = share of positions within LOGIT_MARGIN of the maximum over both masks, in the mask where that share is larger

Only at the small scale does the receptive field of a classifier cover a large object as a whole and leave out the
background around it; an object of a few cells is found only at the large scale. A constant added to both inputs is
added to the output, so the offset can be calibrated on the output. Not from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.inference.relative_threshold import robust_max

LARGE_OBJECT_AREA = 0.15  # share of the frame from which both scales have equal weight
LOGIT_MARGIN = 2.0  # logits


def merge_scales(full: Tensor, reduced: Tensor) -> Tensor:
    """Merge mask logits of frames [B,T,h,w] with those of their smaller copies [B,T,h',w'] -> [B,T,h,w]."""
    reduced = F.interpolate(reduced, full.shape[-2:], mode="bilinear")
    logits = torch.stack([full, reduced])
    near_maximum = logits > robust_max(logits).amax(0) - LOGIT_MARGIN
    extent = near_maximum.float().mean((-2, -1), keepdim=True).amax(0)
    return torch.lerp(full, reduced, (extent / LARGE_OBJECT_AREA).clamp(max=1) / 2)
