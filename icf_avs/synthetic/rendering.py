"""Render frames of a scene: stamps with exact masks over a background, at any time and any size.

Lengths are in units of the shorter side of a virtual canvas of the scene's aspect; the canvas is squashed to the
requested size. Stamps are drawn with premultiplied alpha. In open-vocabulary scenes their colours are moved towards
those of the background, they cast a shadow, and camera degradations are added.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from icf_avs.errors import UserError
from icf_avs.synthetic.backgrounds import load_background
from icf_avs.synthetic.scene import Camera, PlacedStamp, Scene, Shadow

_LONGEST = 384  # longer side of a stamp in memory, pixels
BORDER = 2  # transparent pixels around a stamp, to interpolate its edge


@dataclass(frozen=True)
class Sprite:
    """A cut-out at decreasing sizes (each half the last), premultiplied, mode RGBX with alpha in the fourth band."""

    levels: tuple[Image.Image, ...]
    width: int  # of the cut-out at level 0, without its border
    height: int
    area: int  # pixels at level 0 with alpha > 0.5

    @cached_property
    def colors(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of its colours, each [3]."""
        pixels = np.asarray(self.levels[max(0, len(self.levels) - 2)]).reshape(-1, 4).astype(np.float32)
        pixels = pixels[pixels[:, 3] > 127]
        colors = pixels[:, :3] * (255 / pixels[:, 3:])
        return colors.mean(0), colors.std(0) + 1.0


@lru_cache(maxsize=512)
def load_sprite(path: Path) -> Sprite:
    """Read a cut-out image, cropped to its visible part. Raises UserError if it cannot be shown."""
    try:
        image = Image.open(path).convert("RGBA")
    except OSError as error:
        raise UserError(f"the stamp {path} cannot be read ({error}): fetch the data again") from error
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 24)).getbbox()
    if box is None:
        raise UserError(f"the stamp {path} is wholly transparent")
    image = image.crop(box).convert("RGBa")  # resizing must not mix in the colour of transparent pixels
    if (ratio := _LONGEST / max(image.size)) < 1:
        size = tuple(max(1, round(side * ratio)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    width, height = image.size
    area, levels = int(np.count_nonzero(np.asarray(image)[..., 3] > 127)), []
    while True:
        padded = np.pad(np.asarray(image), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)))
        levels.append(Image.frombytes("RGBX", padded.shape[1::-1], padded.tobytes()))
        if min(image.size) < 16:
            return Sprite(tuple(levels), width, height, area)
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)


Patch = tuple[int, tuple[slice, slice], np.ndarray]  # number of the stamp, window in the image, pixels uint8 [h, w, 4]
_CONTRAST = (0.6, 1.5)  # range in which the standard deviation of a stamp's colours may be scaled


def canvas_size(aspect: float) -> tuple[float, float]:
    """Return width and height of the virtual canvas, whose shorter side is 1."""
    return (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)


def pose(stamp: PlacedStamp, scene: Scene, time_s: float) -> tuple[float, float, float, float]:
    """Return centre x, centre y, scale (square root of the box's area) and angle in radians of a stamp at a time."""
    since = time_s - scene.seconds / 2
    swing = 2 * math.pi * stamp.sway_frequency * time_s + stamp.sway_phase
    x = stamp.x + stamp.drift_x * since + stamp.sway * math.sin(swing)
    y = stamp.y + stamp.drift_y * since + 0.5 * stamp.sway * math.cos(swing)
    return x, y, stamp.size * math.exp(stamp.growth * since), math.radians(stamp.angle + stamp.spin * since)


def _patches(scene: Scene, time_s: float, size: tuple[int, int]) -> list[Patch]:
    """Return the visible parts of all stamps, premultiplied, in drawing order."""
    patches: list[Patch] = []
    width, height = size
    across, down = canvas_size(scene.aspect)
    scale_x, scale_y = width / across, height / down
    for number, stamp in enumerate(scene.stamps, start=1):
        sprite = load_sprite(scene.path(stamp))
        x, y, scale, angle = pose(stamp, scene, time_s)
        unit = scale / math.sqrt(sprite.width * sprite.height)  # canvas length of a pixel at level 0
        cosine, sine = math.cos(angle), math.sin(angle)
        half_x = 0.5 * unit * (abs(cosine) * sprite.width + abs(sine) * sprite.height)
        half_y = 0.5 * unit * (abs(sine) * sprite.width + abs(cosine) * sprite.height)
        blur = stamp.feather * min(scale_x, scale_y) / 224
        margin = 1 + math.ceil(2 * blur)
        left, top = (max(math.floor(low) - margin, 0) for low in ((x - half_x) * scale_x, (y - half_y) * scale_y))
        right = min(math.ceil((x + half_x) * scale_x) + margin, width)
        bottom = min(math.ceil((y + half_y) * scale_y) + margin, height)
        if left >= right or top >= bottom:
            continue
        shrink = 1 / (unit * max(scale_x, scale_y))  # level-0 pixels per pixel of the image
        level = min(max(0, math.floor(math.log2(shrink) + 0.25)), len(sprite.levels) - 1)
        source = sprite.levels[level]
        # Image pixel -> canvas -> rotated back -> pixel of this level.
        step_x = (source.width - 2 * BORDER) / (sprite.width * unit)
        step_y = (source.height - 2 * BORDER) / (sprite.height * unit)
        from_x, from_y = left / scale_x - x, top / scale_y - y
        row = [cosine * step_x / scale_x, sine * step_x / scale_y]
        row.append((cosine * from_x + sine * from_y) * step_x + source.width / 2)
        column = [-sine * step_y / scale_x, cosine * step_y / scale_y]
        column.append((cosine * from_y - sine * from_x) * step_y + source.height / 2)
        if stamp.flip:
            row = [-row[0], -row[1], source.width - row[2]]
        shape = right - left, bottom - top
        patch = source.transform(shape, Image.Transform.AFFINE, row + column, Image.Resampling.BILINEAR)
        if blur > 0.3:
            patch = patch.filter(ImageFilter.GaussianBlur(blur))
        patches.append((number, (slice(top, bottom), slice(left, right)), np.asarray(patch)))
    return patches


def render_stamp_map(scene: Scene, time_s: float, size: tuple[int, int]) -> np.ndarray:
    """Return the topmost stamp with alpha > 0.5: uint8 [H, W], 0 for the background, i + 1 for scene.stamps[i]."""
    return _stamp_map(_patches(scene, time_s, size), size)


def _stamp_map(patches: list[Patch], size: tuple[int, int]) -> np.ndarray:
    stamp_map = np.zeros((size[1], size[0]), dtype=np.uint8)
    for number, window, patch in patches:
        stamp_map[window][patch[..., 3] > 127] = number
    return stamp_map


def render_frame(scene: Scene, time_s: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Render the frame at `time_s` seconds, squashed to size (width, height).

    Returns RGB uint8 [H, W, 3] and the stamp map uint8 [H, W] of `render_stamp_map`. Raises UserError if a file is
    unreadable.
    """
    image = _background(scene, time_s, size)
    if scene.camera.flip_background:
        image = np.ascontiguousarray(image[:, ::-1])
    patches = _patches(scene, time_s, size)
    if scene.shadow:
        image *= _shading(scene.shadow, patches, size)[..., None]
    for number, window, patch in patches:
        stamp = scene.stamps[number - 1]
        scale, shift = _color_transfer(scene, number - 1)
        pixels = patch.astype(np.float32)
        alpha = pixels[..., 3:]
        color = pixels[..., :3] * (scale * np.array(stamp.gains)).astype(np.float32)
        color += alpha * ((shift * np.array(stamp.gains) + stamp.offset) / 255).astype(np.float32)
        np.clip(color, 0, alpha, out=color)
        region = image[window]
        region *= 1 - alpha / 255
        region += color
    return _apply_camera(image, scene, time_s), _stamp_map(patches, size)


def _background(scene: Scene, time_s: float, size: tuple[int, int]) -> np.ndarray:
    """Return a slowly panning crop of the background, float32 [H, W, 3]."""
    image = load_background(scene.background)
    across, down = canvas_size(scene.aspect)
    largest = min(image.width / across, image.height / down) * scene.zoom
    width, height = largest * across, largest * down
    since = time_s - scene.seconds / 2
    left = min(max(scene.pan_x + scene.pan_speed_x * since, 0.0), 1.0) * (image.width - width)
    top = min(max(scene.pan_y + scene.pan_speed_y * since, 0.0), 1.0) * (image.height - height)
    box = (left, top, left + width, top + height)
    crop = image.resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(crop, dtype=np.float32) * np.float32(scene.gains) + np.float32(scene.offset)


def _shading(shadow: Shadow, patches: list[Patch], size: tuple[int, int]) -> np.ndarray:
    """Return the share of light left by the shadow of all stamps: float32 [H, W]."""
    outline = np.zeros((size[1], size[0]), dtype=np.uint8)
    for _, window, patch in patches:
        np.maximum(outline[window], patch[..., 3], out=outline[window])
    short = min(size)
    move = (1, 0, -shadow.offset_x * short, 0, 1, -shadow.offset_y * short)
    cast = Image.fromarray(outline).transform(size, Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
    cast = cast.filter(ImageFilter.GaussianBlur(shadow.softness * short))
    return 1 - np.float32(shadow.darkness / 255) * np.asarray(cast, dtype=np.float32)


def _color_transfer(scene: Scene, index: int) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Return scale and shift of a stamp's colours, part of the way from its mean and contrast to the background's.

    After Reinhard et al., Color transfer between images (2001), in RGB and in part. Without objects nothing changes.
    """
    if not scene.objects:
        return 1.0, 0.0
    share = scene.objects[scene.object_of[index] - 1].color_transfer
    mean, deviation = load_sprite(scene.path(scene.stamps[index])).colors
    background_mean, background_deviation = _background_colors(scene)
    scale = np.clip(((background_deviation + 1) / deviation) ** share, *_CONTRAST)
    return scale, mean + share * (background_mean - mean) - scale * mean


@lru_cache(maxsize=4)
def _background_colors(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the background's colours in the middle of the clip, each [3]."""
    small = _background(scene, scene.seconds / 2, (32, 32)).clip(0, 255)
    return small.mean((0, 1)), small.std((0, 1))


def _apply_camera(image: np.ndarray, scene: Scene, time_s: float) -> np.ndarray:
    """float32 [H, W, 3] -> uint8: gamma, resolution, blur, noise and compression, in the order of a camera."""
    height, width = image.shape[:2]
    camera = scene.camera
    if camera.gamma != 1:
        image = 255 * (np.clip(image, 0, 255) / 255) ** camera.gamma
    rgb = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if camera == Camera() and not scene.jpeg_quality:
        return rgb
    picture = Image.fromarray(rgb)
    if camera.detail < 1:
        small = max(1, round(width * camera.detail)), max(1, round(height * camera.detail))
        picture = picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    if (radius := camera.blur * min(width, height) / 448) > 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    if camera.noise:
        rng = np.random.default_rng([*scene.key, round(1000 * time_s)])
        grain = rng.standard_normal((height, width, 3), dtype=np.float32)
        picture = Image.fromarray(np.clip(np.asarray(picture) + camera.noise * grain + 0.5, 0, 255).astype(np.uint8))
    if scene.jpeg_quality:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=scene.jpeg_quality)
        picture = Image.open(buffer).convert("RGB")
    return np.asarray(picture)


def visible_shares(scene: Scene, times: list[float], short_side: int = 64) -> np.ndarray:
    """Return the share of each stamp's area that is inside the image and not covered: float [len(times), stamps]."""
    across, down = canvas_size(scene.aspect)
    size = round(across * short_side), round(down * short_side)
    shares = np.zeros((len(times), len(scene.stamps)))
    for row, time_s in enumerate(times):
        counts = np.bincount(render_stamp_map(scene, time_s, size).ravel(), minlength=len(scene.stamps) + 1)[1:]
        for column, stamp in enumerate(scene.stamps):
            sprite = load_sprite(scene.path(stamp))
            scale = pose(stamp, scene, time_s)[2] * short_side
            shares[row, column] = counts[column] / (sprite.area * scale**2 / (sprite.width * sprite.height))
    return shares
