"""A picture's own yardstick: what is much less sure than the surest place of its mask is not marked.

    logit(p) <- logit(p) - share * max(0, q),  q the 99.5 % quantile of the picture's logits

A word that fits something very well leaves the plain ground around it a little likelier than not. One offset for all
pictures cannot tell that from a thing which is found with effort. Ours; the share is calibrated as the offset is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SUREST = 0.005  # of the pixels


def surest(logits: Tensor) -> Tensor:
    """Mask logits [...,h,w] -> [...,1,1]: how sure the picture's answer is where it is surest."""
    count = max(1, round(_SUREST * logits.shape[-2] * logits.shape[-1]))
    return logits.flatten(-2).topk(count, dim=-1).values[..., -1, None, None]


class Yardstick(nn.Module):
    """Mask logits [...,h,w] -> [...,h,w]. Its share is 0 until it is calibrated."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        return logits - self.share * surest(logits).clamp(min=0)
