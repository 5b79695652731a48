"""Sample open-vocabulary scenes, in which words stand for sounds: the objects shown, their layout, and the camera.

An object is what one word means: a stamp, or a group of stamps of one word. A scene is a pure function of catalog,
split, index, seed and style. The splits "train", "val" and "test" never share a composition (its set of stamps) or a
background. "heldout" and "heldout-val" show at least one object that training never shows or names, on backgrounds of
"test" and of "val".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icf_avs.synthetic import scene_sampler
from icf_avs.synthetic.catalog import NamedStamp, OpenVocabCatalog
from icf_avs.synthetic.rendering import canvas_size, load_sprite, visible_shares
from icf_avs.synthetic.scene import Camera, OpenVocabObject, PlacedStamp, Scene, Shadow, hash_decile

OPEN_VOCAB_SPLITS = ("train", "val", "test", "heldout", "heldout-val")  # append new ones: seeds use the index
_HELD_OUT = {"heldout": "cross", "heldout-val": "cross-val"}  # and their names in scenes with sound
_DECILES = scene_sampler.SPLIT_DECILES | dict.fromkeys(_HELD_OUT, range(10))
_STREAM = 5  # separates the random numbers from those of scenes with sound
_SMALLEST, _LARGEST = 0.05, 0.9  # square root of the area of a stamp's box, in shorter sides of the image
_CLOSE = (0.9, 1.7)  # the same for an object close to the camera and partly outside the image
# Maximum shorter sides per pixel of a cut-out, and of a close one: beyond that it does not look like a photograph.
_ENLARGED, _CLOSE_ENLARGED = 2.5 / 448, 4.5 / 448
_ZOOM, _PLAIN_ZOOM = (0.35, 1.0), (0.04, 0.25)  # visible share of a background
_GAINS = (0.7, 1.25), (0.9, 1.1)
_MIN_VISIBLE = 0.35  # minimum visible share, at all times, of an object's most visible stamp
_MIN_AREA = 0.0012  # minimum share of the image that an object covers at all times
_AUDIBLE = {"animal", "musical instrument", "vehicle", "tool"}  # generic words of objects that often sound


@dataclass(frozen=True)
class OpenVocabStyle:
    """Probabilities of the content of a scene. The tuple of counts is normalised."""

    num_objects: tuple[float, ...] = (0.25, 0.35, 0.25, 0.15)  # of 1, 2, 3, 4 words
    group_prob: float = 0.22  # that an object is a group of 2 to 8 stamps
    audible_prob: float = 0.6  # that an object is drawn from those that often sound
    close_prob: float = 0.0  # that one object fills the image or exceeds it
    shadow_prob: float = 0.0  # that all objects cast a shadow on the background
    plain_prob: float = 0.0  # that the background is one surface, such as a floor or a lawn


DEFAULT = OpenVocabStyle()
NATURAL = OpenVocabStyle(close_prob=0.3, shadow_prob=0.5, plain_prob=0.35)  # like videos; for training only


def sample_open_vocab_scene(
    catalog: OpenVocabCatalog, split: str, index: int, seed: int = 0, style: OpenVocabStyle = DEFAULT, seconds: int = 1
) -> Scene:
    """Sample scene number `index` of a split in OPEN_VOCAB_SPLITS. Raises ValueError for others or seconds < 1."""
    scene_sampler.check_request(split, OPEN_VOCAB_SPLITS, seconds)
    rng = np.random.default_rng([_STREAM, seed, OPEN_VOCAB_SPLITS.index(split), index])
    object_stamps = _draw_objects(catalog, split, style, rng)
    close = style.close_prob > 0 and rng.random() < style.close_prob and len(object_stamps[0]) == 1
    view = scene_sampler.ViewRanges(lambda: _zoom(style, rng), 0.05, _GAINS, (0.5, 30), noise_share=0.1)
    empty = scene_sampler.draw_view(catalog.root, _HELD_OUT.get(split, split), index, seed, seconds, view, rng)
    times = [0.5] if seconds == 1 else scene_sampler.visibility_times(seconds)
    scene = scene_sampler.search_layout(
        lambda shrink: _lay_out(object_stamps, empty, shrink, close, rng),
        lambda candidate: _all_visible(candidate, len(object_stamps), times),
        tries=4,
    )
    objects = []
    for first, *_ in object_stamps:
        transfer = float(rng.uniform(0, 0.6)) if rng.random() < 0.6 else 0.0
        objects.append(OpenVocabObject(first.words, first.generic, first.class_name, transfer))
    camera = Camera(
        flip_background=bool(rng.random() < 0.5),
        gamma=float(np.exp(rng.uniform(-0.3, 0.3))) if rng.random() < 0.5 else 1.0,
        detail=float(rng.uniform(0.4, 0.9)) if rng.random() < 0.3 else 1.0,
        blur=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.3 else 0.0,
        noise=float(rng.uniform(1, 10)) if rng.random() < 0.5 else 0.0,
    )
    shadow = None
    if style.shadow_prob > 0 and rng.random() < style.shadow_prob:
        offset_x, offset_y = float(rng.normal(0, 0.08)), float(rng.uniform(-0.01, 0.1))
        shadow = Shadow(offset_x, offset_y, float(rng.uniform(0.003, 0.03)), float(rng.uniform(0.15, 0.65)))
    return replace(scene, objects=tuple(objects), camera=camera, shadow=shadow)


def _zoom(style: OpenVocabStyle, rng: np.random.Generator) -> float:
    """Draw the zoom: a small part of a photograph, enlarged, looks like one surface; its scale is log-uniform."""
    if style.plain_prob > 0 and rng.random() < style.plain_prob:
        return np.exp(rng.uniform(*np.log(_PLAIN_ZOOM)))
    return rng.uniform(*_ZOOM)


def _draw_objects(
    catalog: OpenVocabCatalog, split: str, style: OpenVocabStyle, rng: np.random.Generator
) -> list[tuple[NamedStamp, ...]]:
    """Draw the stamps of each object until the composition belongs to the split."""
    not_held_out = tuple(stamp for stamp in catalog.stamps if not stamp.held_out)
    known = not_held_out if split == "test" else catalog.training
    while True:
        object_stamps: list[tuple[NamedStamp, ...]] = []
        for _ in range(scene_sampler.draw_count(style.num_objects, 1, rng)):
            # The first object of a held-out scene is held out, and so are half of the others.
            unknown = split in _HELD_OUT and (not object_stamps or rng.random() < 0.5)
            pool = catalog.held_out if unknown else known
            if rng.random() < style.audible_prob:
                pool = tuple(stamp for stamp in pool if stamp.class_name or set(stamp.generic) & _AUDIBLE) or pool
            used_families = {copies[0].family for copies in object_stamps}
            # Family, then word, then stamp, because there are 24 flowers and one violin.
            family = _choice(sorted({stamp.family for stamp in pool} - used_families), rng)
            pool = [stamp for stamp in pool if stamp.family == family]
            word = _choice(sorted({stamp.word for stamp in pool}), rng)
            same_word = [stamp for stamp in pool if stamp.word == word]
            first = _choice(same_word, rng)
            copies = int(rng.integers(2, 9)) if rng.random() < style.group_prob else 1
            # Copies of one stamp, or of all stamps of its word.
            choices = [first] if rng.random() < 0.5 else [s for s in same_word if s.generic == first.generic]
            object_stamps.append((first, *(_choice(choices, rng) for _ in range(copies - 1))))
        composition = "\n".join(sorted({stamp.stem for copies in object_stamps for stamp in copies}))
        if hash_decile(composition) in _DECILES[split]:
            return object_stamps


def _choice(choices: Sequence[Any], rng: np.random.Generator) -> Any:
    return choices[rng.integers(len(choices))]


def _lay_out(
    object_stamps: list[tuple[NamedStamp, ...]], scene: Scene, shrink: float, close: bool, rng: np.random.Generator
) -> Scene:
    """Return the scene with sizes, positions, order and motion of all stamps. close: the first object is close."""
    centres: list[np.ndarray] = []
    stamps: list[PlacedStamp] = []
    object_of: list[int] = []
    for number in rng.permutation(len(object_stamps)):
        copies = object_stamps[number]
        size = _SMALLEST * (_LARGEST / _SMALLEST) ** (rng.random() ** 0.35) * shrink
        if len(copies) > 1:
            size = min(size, 1.1 / len(copies) ** 0.5) * rng.uniform(0.5, 1.0)
        near = close and number == 0
        if near:
            size = rng.uniform(*_CLOSE) * shrink
        # Of three positions the one farthest from the other objects is used; it may be at the edge.
        places = np.array(canvas_size(scene.aspect)) * (0.5 + rng.uniform(-0.44, 0.44, (3, 2)))
        centre = max(places, key=lambda place: min((float(np.hypot(*(place - c))) for c in centres), default=0.0))
        centres.append(centre)
        # All copies have the same light; the lower ones of a group are larger, and drawn on top.
        gains = np.array(scene_sampler.draw_gains(*_GAINS, rng))
        feather = float(rng.uniform(0.2, 1.6)) if rng.random() < 0.7 else 0.0
        poses = [(centre, size, gains)] if len(copies) == 1 else _group(len(copies), centre, size, gains, rng)
        for copy, pose in zip(copies, poses, strict=True):
            stamps.append(_place_stamp(scene, copy, *pose, feather, near, rng))
            object_of.append(int(number) + 1)
    return replace(scene, stamps=tuple(stamps), object_of=tuple(object_of))


def _group(
    copies: int, centre: np.ndarray, size: float, gains: np.ndarray, rng: np.random.Generator
) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Return position, size and gains of each copy."""
    offsets = rng.normal(0, 1, (copies, 2)) * np.array([0.75, 0.4]) * size * copies**0.4
    offsets = offsets[np.argsort(offsets[:, 1])]
    depth = np.clip(1 + 0.25 * offsets[:, 1] / (np.abs(offsets[:, 1]).max() + 1e-9), 0.6, 1.4)
    sizes = size * depth * np.exp(rng.normal(0, 0.12, copies))
    return [(centre + offset, one, gains * rng.uniform(0.9, 1.1)) for offset, one in zip(offsets, sizes, strict=True)]


def _place_stamp(
    scene: Scene, stamp: NamedStamp, centre: np.ndarray, size: float, gains: np.ndarray, feather: float, close: bool,
    rng: np.random.Generator,
) -> PlacedStamp:  # fmt: skip
    sprite = load_sprite(scene.root / f"{stamp.stem}.png")
    long_side, short_side = max(sprite.width, sprite.height), min(sprite.width, sprite.height)
    longest, enlarged = (2 * _CLOSE[1], _CLOSE_ENLARGED) if close else (1.2, _ENLARGED)
    size = min(size, longest * (short_side / long_side) ** 0.5, enlarged * (sprite.width * sprite.height) ** 0.5)
    return PlacedStamp(
        stamp.stem, stamp.class_name, 0, (), *centre.tolist(), float(size),
        **scene_sampler.draw_motion(lambda width: rng.normal(0, width), 8, (0.03, 0.015), 0.04, rng),
        gains=tuple(gains.tolist()),
        offset=float(rng.uniform(-20, 20)),
        feather=feather,
    )  # fmt: skip


def _all_visible(scene: Scene, objects: int, times: list[float]) -> bool:
    """Return True if enough of every object is visible at all times."""
    shares = visible_shares(scene, times)
    across, down = canvas_size(scene.aspect)
    cutouts = np.array([0.5 * stamp.size**2 for stamp in scene.stamps])  # a cut-out fills half of its box
    for number in range(1, objects + 1):
        in_object = np.array(scene.object_of) == number
        area = (shares[:, in_object] * cutouts[in_object]).sum(axis=1) / (across * down)
        if shares[:, in_object].max(axis=1).min() < _MIN_VISIBLE or area.min() < _MIN_AREA:
            return False
    return True
