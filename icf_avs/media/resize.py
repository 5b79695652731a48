"""Pictures squashed or enlarged to the square that a model looks at, and small copies for people."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def resized(images: Tensor, side: int) -> Tensor:
    """uint8 [N,H,W,3] -> uint8 [N,side,side,3], bilinear, antialiased where it shrinks; the same tensor if it fits."""
    if images.shape[1:3] == (side, side):
        return images
    # On the CPU, which does it in whole numbers, as Pillow does: so all devices see the same pictures.
    planes = F.interpolate(images.cpu().permute(0, 3, 1, 2), (side, side), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous().to(images.device)


def thumbnail(rgb: np.ndarray, longest: int, pixel_aspect: Fraction) -> Image.Image:
    """RGB uint8 [H,W,3] in its true shape, with square pixels, neither side longer than `longest`."""
    image = Image.fromarray(rgb)
    if pixel_aspect != 1:
        height, width = rgb.shape[:2]
        shown = max(1, pixel_aspect) * width, max(1, 1 / pixel_aspect) * height
        scale = min(1, Fraction(longest) / max(shown))
        image = image.resize([max(1, round(scale * side)) for side in shown], Image.Resampling.BICUBIC)
    image.thumbnail((longest, longest))
    return image
