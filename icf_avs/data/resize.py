"""Pictures squashed or enlarged to the square that a model looks at."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resized(pictures: Tensor, side: int) -> Tensor:
    """uint8 [N,H,W,3] -> uint8 [N,side,side,3], bilinear, antialiased where it shrinks; the same tensor if it fits."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    planes = pictures.permute(0, 3, 1, 2)
    # A CPU does it in whole numbers, as Pillow does, in a tenth of the time.
    planes = planes if planes.device.type == "cpu" else planes.float()
    planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
    planes = planes if planes.dtype == pictures.dtype else planes.round().clamp(0, 255).byte()
    return planes.permute(0, 2, 3, 1).contiguous()
