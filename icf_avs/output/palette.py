"""Colours of class ids, as the AVSS labels (labels_rgb) and PASCAL VOC have them."""

from __future__ import annotations

import numpy as np
from PIL import Image

COLOURS = 256  # ids that one byte can hold


def palette(n: int = COLOURS) -> np.ndarray:
    """Colours of ids 0..n-1, uint8 [n, 3] RGB: 0 is black, 1 is (128, 0, 0), 2 is (0, 128, 0).

    The bits of an id are dealt to red, green and blue in turn, the low ones to the high bits of the channels.
    """
    if not 1 <= n <= COLOURS:
        raise ValueError(f"{n} colours asked for; there are 1 to {COLOURS}")
    ids, channels = np.arange(n)[:, None], np.arange(3)
    colours = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        colours |= ((ids >> (3 * bit + channels) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def indexed(ids: np.ndarray) -> Image.Image:
    """Class ids, uint8 [H, W] -> a picture (mode P) whose pixels are the ids, shown in these colours."""
    picture = Image.fromarray(ids)
    picture.putpalette(palette().tobytes())
    return picture
