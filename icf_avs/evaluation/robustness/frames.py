"""The small images of a report, as PNG inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from icf_avs.output.overlay import Overlay

SIDE = 132  # pixels
_COLOURS = 96  # enough for a thumbnail, and a third of the bytes


def tile(image: np.ndarray, mask: np.ndarray | None = None) -> str:
    """image uint8 [H, W, 3], and mask bool [H, W] drawn in -> "data:image/png;base64,..." of a SIDE x SIDE tile.

    With a mask the image loses its colours, so that the mask's stands out on any.
    """
    drawn = image
    if mask is not None:
        drawn = np.array(Image.fromarray(image).convert("L").convert("RGB"))
        Overlay(mask).draw_rgb(drawn)
    small = Image.fromarray(drawn).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.quantize(_COLOURS).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
