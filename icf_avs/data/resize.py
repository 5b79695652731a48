"""Pictures squashed or enlarged to the square that a model looks at."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resized(pictures: Tensor, side: int) -> Tensor:
    """uint8 [N,H,W,3] -> uint8 [N,side,side,3], bilinear, antialiased where it shrinks; the same tensor if it fits."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    planes = F.interpolate(pictures.permute(0, 3, 1, 2).float(), (side, side), mode="bilinear", antialias=True)
    return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
