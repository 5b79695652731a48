"""Images: EXIF orientation, resizing to the square model input, and thumbnails."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F


def resize_frames(images: Tensor, side: int) -> Tensor:
    """Resize uint8 [N,H,W,3] to [N,side,side,3], bilinear, antialiased when shrinking; no copy if the size is right."""
    if images.shape[1:3] == (side, side):
        return images
    # On the CPU, which uses integer arithmetic like Pillow, so that the result is the same on all devices.
    planes = F.interpolate(images.cpu().permute(0, 3, 1, 2), (side, side), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous().to(images.device)


def thumbnail(rgb: np.ndarray, longest: int, pixel_aspect: Fraction) -> Image.Image:
    """Shrink RGB uint8 [H,W,3] so that no side exceeds `longest`, with the aspect corrected to square pixels."""
    image = Image.fromarray(rgb)
    if pixel_aspect != 1:
        height, width = rgb.shape[:2]
        display_size = max(1, pixel_aspect) * width, max(1, 1 / pixel_aspect) * height
        scale = min(1, Fraction(longest) / max(display_size))
        image = image.resize([max(1, round(scale * side)) for side in display_size], Image.Resampling.BICUBIC)
    image.thumbnail((longest, longest))
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: EXIF orientation applied, alpha on black, 16-bit grey scaled (Pillow would clip at 255)."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32)
        image = Image.fromarray((grey / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return image.convert("RGB")
