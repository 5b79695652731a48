"""Pictures of word scenes: stamps whose colours take part in the background's light, seen by a middling camera."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from icf_avs.stamps.rendering import background_crop, load_sprite, patches
from icf_avs.stamps.word_scenes import Shadow, WordScene

_CONTRAST = (0.6, 1.5)  # how far the standard deviation of a stamp's colours may be scaled


def render_word_frame(scene: WordScene, time_s: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The picture at `time_s` seconds, squashed to size (width, height).

    Returns rgb uint8 [H, W, 3] and things uint8 [H, W]: 0 for the background, else the number of the thing on top with
    alpha > 0.5. Raises UserError if a file is unreadable.
    """
    picture = background_crop(scene.scene, time_s, size)
    if scene.mirrored:
        picture = np.ascontiguousarray(picture[:, ::-1])
    things = np.zeros((size[1], size[0]), dtype=np.uint8)
    light = _light(scene)
    drawn = list(patches(scene.scene, time_s, size))
    if scene.shadow:
        picture *= _lit(scene.shadow, drawn, size)[..., None]
    for index, window, patch in drawn:
        placed, thing = scene.scene.stamps[index], scene.thing_of[index]
        scale, shift = _colours(scene.scene.root / f"{placed.stem}.png", light, scene.transfer[thing - 1])
        pixels = patch.astype(np.float32)
        alpha = pixels[..., 3:]
        colour = pixels[..., :3] * (scale * placed.gains).astype(np.float32)
        colour += alpha * ((shift * placed.gains + placed.offset) / 255).astype(np.float32)
        np.clip(colour, 0, alpha, out=colour)
        region = picture[window]
        region *= 1 - alpha / 255
        region += colour
        things[window][patch[..., 3] > 127] = thing
    return _photographed(picture, scene, time_s), things


def _lit(shadow: Shadow, drawn: list[tuple[int, tuple[slice, slice], np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Share of the light that the shadow of all stamps leaves: float32 [H, W]."""
    width, height = size
    outline = np.zeros((height, width), dtype=np.uint8)
    for _, window, patch in drawn:
        np.maximum(outline[window], patch[..., 3], out=outline[window])
    short = min(size)
    move = (1, 0, -shadow.across * short, 0, 1, -shadow.down * short)
    cast = Image.fromarray(outline).transform(size, Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
    cast = cast.filter(ImageFilter.GaussianBlur(shadow.softness * short))
    return 1 - np.float32(shadow.darkness / 255) * np.asarray(cast, dtype=np.float32)


def _light(scene: WordScene) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the background's colours in the middle of the clip, each [3]."""
    small = background_crop(scene.scene, scene.scene.seconds / 2, (32, 32)).clip(0, 255)
    return small.mean((0, 1)), small.std((0, 1))


@lru_cache(maxsize=512)
def _palette(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a cut-out's own colours, each [3]."""
    sprite = load_sprite(path)
    pixels = np.asarray(sprite.levels[max(0, len(sprite.levels) - 2)]).reshape(-1, 4).astype(np.float32)
    pixels = pixels[pixels[:, 3] > 127]
    colours = pixels[:, :3] * (255 / pixels[:, 3:])
    return colours.mean(0), colours.std(0) + 1.0


def _colours(path: Path, light: tuple[np.ndarray, np.ndarray], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a stamp's colours: `share` of the way from its own mean and contrast to the background's.

    After Reinhard et al., Color transfer between images (2001), in RGB and in part.
    """
    mean, deviation = _palette(path)
    scale = np.clip(((light[1] + 1) / deviation) ** share, *_CONTRAST)
    return scale, mean + share * (light[0] - mean) - scale * mean


def _photographed(picture: np.ndarray, scene: WordScene, time_s: float) -> np.ndarray:
    """Gamma, resolution, focus, noise and compression, in the order in which a camera adds them."""
    height, width = picture.shape[:2]
    if scene.gamma != 1:
        picture = 255 * (np.clip(picture, 0, 255) / 255) ** scene.gamma
    image = Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))
    if scene.detail < 1:
        small = max(1, round(width * scene.detail)), max(1, round(height * scene.detail))
        image = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    if (radius := scene.blur * min(width, height) / 448) > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    if scene.noise:
        rng = np.random.default_rng([*scene.scene.key, round(1000 * time_s)])
        grain = rng.standard_normal((height, width, 3), dtype=np.float32)
        image = Image.fromarray(np.clip(np.asarray(image) + scene.noise * grain + 0.5, 0, 255).astype(np.uint8))
    if scene.scene.jpeg_quality:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=scene.scene.jpeg_quality)
        image = Image.open(buffer)
    return np.asarray(image.convert("RGB"))
