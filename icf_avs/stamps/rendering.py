"""Pictures of a scene: stamps with exact masks over a background, at any moment and any size.

Lengths are in units of the shorter side of a virtual canvas of the scene's aspect; the canvas is squashed to the size
asked for. Stamps are drawn with premultiplied alpha.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from icf_avs.errors import UserError
from icf_avs.stamps.backgrounds import load_background

if TYPE_CHECKING:
    from icf_avs.stamps.scene import Placed, Scene

_LONGEST = 384  # pixels of a stamp kept in memory
_BORDER = 2  # transparent pixels around a stamp, so that its edge is interpolated


@dataclass(frozen=True)
class Sprite:
    """A cut-out at falling sizes (each half the one before), premultiplied, mode RGBX with alpha in the fourth band."""

    levels: tuple[Image.Image, ...]
    width: int  # of the cut-out at level 0, without its border
    height: int
    area: int  # pixels at level 0 with alpha > 0.5


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
        padded = np.pad(np.asarray(image), ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)))
        levels.append(Image.frombytes("RGBX", (padded.shape[1], padded.shape[0]), padded.tobytes()))
        if min(image.size) < 16:
            break
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return Sprite(tuple(levels), width, height, area)


def canvas(aspect: float) -> tuple[float, float]:
    """Width and height of the virtual canvas, whose shorter side is 1."""
    return (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)


def pose(placed: Placed, scene: Scene, time_s: float) -> tuple[float, float, float, float]:
    """Centre x, centre y, scale (square root of the box's area) and angle in radians of a stamp at a moment."""
    since = time_s - scene.seconds / 2
    swing = 2 * math.pi * placed.sway_frequency * time_s + placed.sway_phase
    x = placed.x + placed.drift_x * since + placed.sway * math.sin(swing)
    y = placed.y + placed.drift_y * since + 0.5 * placed.sway * math.cos(swing)
    return x, y, placed.size * math.exp(placed.growth * since), math.radians(placed.angle + placed.spin * since)


def patches(
    scene: Scene, time_s: float, size: tuple[int, int]
) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Per stamp, in drawing order: its index, its window in the picture, its premultiplied pixels uint8 [h, w, 4]."""
    width, height = size
    across, down = canvas(scene.aspect)
    scale_x, scale_y = width / across, height / down
    for index, placed in enumerate(scene.stamps):
        sprite = load_sprite(scene.root / f"{placed.stem}.png")
        x, y, scale, angle = pose(placed, scene, time_s)
        unit = scale / math.sqrt(sprite.width * sprite.height)  # canvas length of a pixel at level 0
        cosine, sine = math.cos(angle), math.sin(angle)
        half_x = 0.5 * unit * (abs(cosine) * sprite.width + abs(sine) * sprite.height)
        half_y = 0.5 * unit * (abs(sine) * sprite.width + abs(cosine) * sprite.height)
        blur = placed.feather * min(scale_x, scale_y) / 224
        margin = 1 + math.ceil(2 * blur)
        left, right = math.floor((x - half_x) * scale_x) - margin, math.ceil((x + half_x) * scale_x) + margin
        top, bottom = math.floor((y - half_y) * scale_y) - margin, math.ceil((y + half_y) * scale_y) + margin
        left, right, top, bottom = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
        if left >= right or top >= bottom:
            continue
        shrink = 1 / (unit * max(scale_x, scale_y))  # level-0 pixels in a pixel of the picture
        level = min(max(0, math.floor(math.log2(shrink) + 0.25)), len(sprite.levels) - 1)
        image = sprite.levels[level]
        # Picture pixel -> canvas -> turned back -> pixel of this level.
        step_x = (image.width - 2 * _BORDER) / (sprite.width * unit)
        step_y = (image.height - 2 * _BORDER) / (sprite.height * unit)
        from_x, from_y = left / scale_x - x, top / scale_y - y
        row = [cosine * step_x / scale_x, sine * step_x / scale_y]
        row.append((cosine * from_x + sine * from_y) * step_x + image.width / 2)
        column = [-sine * step_y / scale_x, cosine * step_y / scale_y]
        column.append((cosine * from_y - sine * from_x) * step_y + image.height / 2)
        if placed.flip:
            row = [-row[0], -row[1], image.width - row[2]]
        patch = image.transform(
            (right - left, bottom - top), Image.Transform.AFFINE, row + column, Image.Resampling.BILINEAR
        )
        if blur > 0.3:
            patch = patch.filter(ImageFilter.GaussianBlur(blur))
        yield index, (slice(top, bottom), slice(left, right)), np.asarray(patch)


def render_slots(scene: Scene, time_s: float, size: tuple[int, int]) -> np.ndarray:
    """Which stamp is topmost with alpha > 0.5: uint8 [H, W], 0 for the background, i + 1 for scene.stamps[i]."""
    slots = np.zeros((size[1], size[0]), dtype=np.uint8)
    for index, window, patch in patches(scene, time_s, size):
        slots[window][patch[..., 3] > 127] = index + 1
    return slots


def render_frame(scene: Scene, time_s: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The picture at `time_s` seconds, squashed to size (width, height).

    Returns rgb uint8 [H, W, 3] and slots uint8 [H, W] as `render_slots` does. Raises UserError if a file is unreadable.
    """
    picture = background_crop(scene, time_s, size)
    slots = np.zeros((size[1], size[0]), dtype=np.uint8)
    for index, window, patch in patches(scene, time_s, size):
        placed = scene.stamps[index]
        pixels = patch.astype(np.float32)
        alpha = pixels[..., 3:]
        colour = pixels[..., :3] * np.float32(placed.gains) + alpha * np.float32(placed.offset / 255)
        np.clip(colour, 0, alpha, out=colour)
        region = picture[window]
        region *= 1 - alpha / 255
        region += colour
        slots[window][patch[..., 3] > 127] = index + 1
    rgb = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    if scene.jpeg_quality:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=scene.jpeg_quality)
        rgb = np.asarray(Image.open(buffer))
    return rgb, slots


def background_crop(scene: Scene, time_s: float, size: tuple[int, int]) -> np.ndarray:
    """A slowly panning crop of the background, float32 [H, W, 3]."""
    image = load_background(scene.background)
    across, down = canvas(scene.aspect)
    largest = min(image.width / across, image.height / down) * scene.zoom
    width, height = largest * across, largest * down
    since = time_s - scene.seconds / 2
    left = min(max(scene.pan_x + scene.pan_speed_x * since, 0.0), 1.0) * (image.width - width)
    top = min(max(scene.pan_y + scene.pan_speed_y * since, 0.0), 1.0) * (image.height - height)
    box = (left, top, left + width, top + height)
    crop = image.resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(crop, dtype=np.float32) * np.float32(scene.gains) + np.float32(scene.offset)


def visible_shares(scene: Scene, times: list[float], short_side: int = 64) -> np.ndarray:
    """Share of each stamp's own area that is inside the picture and not covered: float [len(times), stamps]."""
    across, down = canvas(scene.aspect)
    size = round(across * short_side), round(down * short_side)
    shares = np.zeros((len(times), len(scene.stamps)))
    for row, time_s in enumerate(times):
        counts = np.bincount(render_slots(scene, time_s, size).ravel(), minlength=len(scene.stamps) + 1)[1:]
        for column, placed in enumerate(scene.stamps):
            sprite = load_sprite(scene.root / f"{placed.stem}.png")
            scale = pose(placed, scene, time_s)[2] * short_side
            shares[row, column] = counts[column] / (sprite.area * scale**2 / (sprite.width * sprite.height))
    return shares
