"""The pictures of a composed clip: one photograph under a slowly moving camera, with the class ids of what sounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from icf_avs.compose.pictures import Picture, Pictures
from icf_avs.compose.scenes import SECONDS, Scene
from icf_avs.compose.soundtrack import mixed, readable

SHORT_SIDE = 240  # pixels of a picture in the set
_VIEW = 0.85, 1.0  # share of the photograph's width and height that the camera sees


@dataclass(frozen=True)
class Rendered:
    """frames, one a second; ids: class id of what sounds, uint8 [H, W] each; active [n, SECONDS] bool by source."""

    frames: list[Image.Image]
    ids: list[Image.Image]
    samples: np.ndarray  # int16, 16 kHz
    active: np.ndarray
    recordings: tuple[str, ...]  # names of those that are heard


def render(
    scene: Scene, pictures: Pictures, kinds_of: Mapping[str, str], ids: Mapping[str, int], unusable: set[str]
) -> Rendered:
    """kinds_of: names of the set's classes by the pictures' spelling; ids: their numbers. Raises UserError for a file
    that is missing or broken; recordings are tried in turn, and the names of those that cannot be used are added to
    `unusable`.
    """
    rng = np.random.default_rng([*scene.seed, 2])
    heard = [readable(source.recordings, unusable) for source in scene.sources]
    samples, active = mixed(scene.sources, [wave for _, wave in heard], rng)
    image, classes = labels(scene.picture, pictures, kinds_of, ids)
    frames, marked = [], []
    for second, box in enumerate(_camera(image.size, rng)):
        size = _size(image.size)
        frames.append(image.resize(size, Image.Resampling.BILINEAR, box))
        sounding = [ids[source.kind] for source, on in zip(scene.sources, active[:, second], strict=True) if on]
        shown = np.asarray(classes.resize(size, Image.Resampling.NEAREST, box))
        marked.append(Image.fromarray(np.where(np.isin(shown, sounding), shown, 0).astype(np.uint8)))
    return Rendered(frames, marked, samples, active, tuple(recording.name for recording, _ in heard))


def labels(
    picture: Picture, pictures: Pictures, kinds_of: Mapping[str, str], ids: Mapping[str, int]
) -> tuple[Image.Image, Image.Image]:
    """A picture and the class id of everything in it, silent or not; where two overlap, the smaller one is in front."""
    image, masks = pictures.load(picture)
    classes = np.zeros(image.size[::-1], np.uint8)
    for kind, mask in sorted(masks.items(), key=lambda item: (-int(item[1].sum()), item[0])):
        if kind in kinds_of:
            classes[mask] = ids[kinds_of[kind]]
    return image, Image.fromarray(classes)


def _size(size: tuple[int, int]) -> tuple[int, int]:
    scale = SHORT_SIDE / min(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _camera(size: tuple[int, int], rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """What is seen of a picture of that size in each second: left, upper, right, lower. It moves and zooms evenly."""
    share = rng.uniform(*_VIEW, size=2)[:, None]  # at the first second and at the last
    corner = rng.uniform(0, 1, size=(2, 2)) * (1 - share)
    path = np.linspace(0, 1, SECONDS)[:, None]
    views = np.concatenate([corner, corner + share], 1)
    return [tuple(view) for view in ((1 - path) * views[0] + path * views[1]) * np.tile(size, 2)]
