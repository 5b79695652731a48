"""Cut-out images of stamps, cropped, premultiplied and at falling sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from icf_avs.errors import UserError

_LONGEST = 384  # pixels of a stamp kept in memory
BORDER = 2  # transparent pixels around a stamp, so that its edge is interpolated


@dataclass(frozen=True)
class Sprite:
    """A cut-out at falling sizes (each half the one before), premultiplied, mode RGBX with alpha in the fourth band."""

    levels: tuple[Image.Image, ...]
    width: int  # of the cut-out at level 0, without its border
    height: int
    area: int  # pixels at level 0 with alpha > 0.5

    @cached_property
    def colors(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of its own colours, each [3]."""
        pixels = np.asarray(self.levels[max(0, len(self.levels) - 2)]).reshape(-1, 4).astype(np.float32)
        pixels = pixels[pixels[:, 3] > 127]
        colors = pixels[:, :3] * (255 / pixels[:, 3:])
        return colors.mean(0), colors.std(0) + 1.0


@lru_cache(maxsize=512)
def load_sprite(path: Path) -> Sprite:
    """Read a cut-out picture, cropped to what is visible. Raises UserError if it cannot be shown."""
    try:
        image = Image.open(path).convert("RGBA")
    except OSError as error:
        raise UserError(f"the stamp {path} cannot be read ({error}): fetch the data again") from error
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 24)).getbbox()
    if box is None:
        raise UserError(f"the stamp {path} is wholly transparent")
    image = image.crop(box).convert("RGBa")  # resizing must not mix in the colour of transparent pixels
    ratio = min(1.0, _LONGEST / max(image.size))
    if ratio < 1:
        size = tuple(max(1, round(side * ratio)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    width, height = image.size
    area = int(np.count_nonzero(np.asarray(image)[..., 3] > 127))
    levels = []
    while True:
        padded = np.pad(np.asarray(image), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)))
        levels.append(Image.frombytes("RGBX", (padded.shape[1], padded.shape[0]), padded.tobytes()))
        if min(image.size) < 16:
            break
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return Sprite(tuple(levels), width, height, area)
