"""Average pooling to a grid, on every device."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def grid_means(maps: Tensor, size: int | Sequence[int]) -> Tensor:
    """[...,C,h,w] -> [...,C,*size]: F.adaptive_avg_pool2d; size: one number for both sides, or (height, width)."""
    size = (size, size) if isinstance(size, int) else (size[0], size[1])
    if maps.device.type != "mps":
        return F.adaptive_avg_pool2d(maps, size)
    return F.adaptive_avg_pool2d(maps.cpu(), size).to(maps.device)  # unsupported on MPS (pytorch issue 96056)
