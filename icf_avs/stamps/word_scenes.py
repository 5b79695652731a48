"""Scenes in which words stand for sounds: who is in the picture and how it was taken.

A thing is what one word means: a stamp, or a flock of stamps of one word. `plan_word_scene` is pure: the same catalog,
split, index, seed and style give the same scene. Splits: "train", "val" and "test" never share a composition (the set
of its pictures) nor a background; "heldout" and "heldout-val" show at least one thing that training never shows or
names, on backgrounds of "test" and of "val".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from icf_avs.stamps.backgrounds import draw_background
from icf_avs.stamps.rendering import canvas, load_sprite, visible_shares
from icf_avs.stamps.scene import Placed, Scene
from icf_avs.stamps.word_catalog import WordCatalog, WordStamp

One = TypeVar("One")

WORD_SPLITS = ("train", "val", "test", "heldout", "heldout-val")  # new ones at the end: they are drawn by number
_HELD_OUT = {"heldout": "cross", "heldout-val": "cross-val"}  # and what scenes with sound call such a split
_TENTHS = {"train": range(8), "val": range(8, 9), "test": range(9, 10)} | dict.fromkeys(_HELD_OUT, range(10))
_STREAM = 5  # keeps these scenes' random numbers apart from those of the scenes with sound
_ASPECTS = (1.0, 4 / 3, 16 / 9, 9 / 16)
_SMALLEST, _LARGEST = 0.05, 0.9  # square root of the area of a stamp's box, in shorter sides of the picture
_ENLARGED = 2.5 / 448  # shorter sides a pixel of the cut-out may cover: more would look like no photograph
_CLOSE = (0.9, 1.7)  # as _SMALLEST and _LARGEST, of what is close to the camera and not wholly in the picture
_CLOSE_ENLARGED = 4.5 / 448
_ZOOM, _PLAIN_ZOOM = (0.35, 1.0), (0.04, 0.25)  # share of a background that is in the picture
_VISIBLE = 0.35  # least share of one of a thing's stamps which stays visible at all times
_LEAST = 0.0012  # least share of the picture that shows a thing at all times
_LOUD = ("animal", "musical instrument", "vehicle", "tool")  # generic words of what is often heard


@dataclass(frozen=True)
class WordStyle:
    """Probabilities of what a scene holds. The tuple of counts is normalised."""

    things: tuple[float, ...] = (0.25, 0.35, 0.25, 0.15)  # of 1, 2, 3, 4 words
    flock: float = 0.22  # that a thing is a flock of 2 to 8
    loud: float = 0.6  # that a thing is drawn among what is often heard rather than among all
    close: float = 0.0  # that one thing fills the picture, and more
    shadow: float = 0.0  # that all things cast a shadow on the background
    plain: float = 0.0  # that the background is one surface, such as a floor or a lawn


@dataclass(frozen=True)
class Shadow:
    """Of all things on the background, which is not part of them: across and down in shorter sides of the picture."""

    across: float
    down: float
    softness: float  # standard deviation of its edge, shorter sides
    darkness: float  # share of the light that it takes


@dataclass(frozen=True)
class WordScene:
    """What to render, and what it may be called. `scene.stamps` are in drawing order, the copies of a flock each."""

    scene: Scene
    thing_of: tuple[int, ...]  # per stamp: the number (1..) of the thing that it belongs to
    words: tuple[tuple[str, ...], ...]  # per thing, the usual word first
    generic: tuple[tuple[str, ...], ...]  # per thing: words that name it and others
    kinds: tuple[str, ...]  # per thing: its kind of sound, empty where none is known
    transfer: tuple[float, ...]  # per thing: how far its colours are moved towards the background's, 0 to 1
    mirrored: bool  # the background
    gamma: float
    detail: float  # share of the resolution that the camera has
    blur: float  # pixels at 448
    noise: float  # standard deviation, of 255
    shadow: Shadow | None

    def things(self, word: str) -> tuple[int, ...]:
        """Numbers of all things that a word names; none for an absent word."""
        named = (own + generic for own, generic in zip(self.words, self.generic, strict=True))
        return tuple(number for number, names in enumerate(named, start=1) if word in names)

    @property
    def present(self) -> tuple[str, ...]:
        """Every word that names something in the picture, sorted."""
        return tuple(sorted({word for names in (*self.words, *self.generic) for word in names}))


DEFAULT = WordStyle()
NATURAL = WordStyle(close=0.3, shadow=0.5, plain=0.35)  # as films are: training sees it, what is scored stays as it was


def plan_word_scene(
    catalog: WordCatalog, split: str, index: int, seed: int = 0, style: WordStyle = DEFAULT, seconds: int = 1
) -> WordScene:
    """Scene number `index` of a split of WORD_SPLITS. Raises ValueError for another split or less than a second."""
    if split not in WORD_SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(WORD_SPLITS)}")
    if seconds < 1:
        raise ValueError(f"seconds is {seconds}; it must be at least 1")
    rng = np.random.default_rng([_STREAM, seed, WORD_SPLITS.index(split), index])
    cast = _draw_cast(catalog, split, style, rng)
    close = style.close > 0 and rng.random() < style.close and len(cast[0]) == 1
    scene = Scene(
        root=catalog.root,
        split=_HELD_OUT.get(split, split),
        index=index,
        seed=seed,
        seconds=seconds,
        aspect=float(rng.choice(_ASPECTS, p=(0.25, 0.3, 0.35, 0.1))),
        background=draw_background(_HELD_OUT.get(split, split), rng, generated=0.1),
        zoom=_zoom(rng, plain=style.plain > 0 and rng.random() < style.plain),
        pan_x=float(rng.random()),
        pan_y=float(rng.random()),
        pan_speed_x=float(rng.normal(0, 0.05)),
        pan_speed_y=float(rng.normal(0, 0.02)),
        gains=_gains(rng),
        offset=float(rng.uniform(-25, 25)),
        jpeg_quality=int(rng.integers(30, 90)) if rng.random() < 0.5 else 0,
        stamps=(),
    )
    times = [0.5] if seconds == 1 else [second + moment for second in range(seconds) for moment in (0.5, 15 / 16)]
    shrink = 1.0
    while True:
        for _ in range(4):
            stamps, thing_of = _lay_out(catalog, cast, scene.aspect, shrink, close, rng)
            scene = replace(scene, stamps=stamps)
            if _all_seen(scene, thing_of, len(cast), times):
                break
        else:
            shrink *= 0.9  # crowded: smaller things cover each other less
            continue
        break
    return WordScene(
        scene=scene,
        thing_of=thing_of,
        words=tuple(copies[0].words for copies in cast),
        generic=tuple(copies[0].generic for copies in cast),
        kinds=tuple(copies[0].kind for copies in cast),
        transfer=tuple(float(rng.uniform(0, 0.6)) if rng.random() < 0.6 else 0.0 for _ in cast),
        mirrored=bool(rng.random() < 0.5),
        gamma=float(np.exp(rng.uniform(-0.3, 0.3))) if rng.random() < 0.5 else 1.0,
        detail=float(rng.uniform(0.4, 0.9)) if rng.random() < 0.3 else 1.0,
        blur=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.3 else 0.0,
        noise=float(rng.uniform(1, 10)) if rng.random() < 0.5 else 0.0,
        shadow=_shadow(rng) if style.shadow > 0 and rng.random() < style.shadow else None,
    )


def _zoom(rng: np.random.Generator, plain: bool) -> float:
    """A small part of any photograph, enlarged, is one surface; small parts are drawn as often as smaller ones."""
    return float(np.exp(rng.uniform(*np.log(_PLAIN_ZOOM)))) if plain else float(rng.uniform(*_ZOOM))


def _shadow(rng: np.random.Generator) -> Shadow:
    across, down = rng.normal(0, 0.08), rng.uniform(-0.01, 0.1)
    return Shadow(float(across), float(down), float(rng.uniform(0.003, 0.03)), float(rng.uniform(0.15, 0.65)))


def _draw_cast(
    catalog: WordCatalog, split: str, style: WordStyle, rng: np.random.Generator
) -> list[tuple[WordStamp, ...]]:
    """The pictures of each thing, one a copy, redrawn until the composition belongs to the split."""
    known = catalog.training
    if split == "test":
        known = tuple(stamp for stamp in catalog.stamps if not stamp.held_out)
    while True:
        count = 1 + int(rng.choice(len(style.things), p=np.array(style.things) / sum(style.things)))
        cast: list[tuple[WordStamp, ...]] = []
        while len(cast) < count:
            # The first of a held-out scene is what makes it one; half of the others are.
            unknown = split in _HELD_OUT and (not cast or rng.random() < 0.5)
            pool = catalog.held_out if unknown else known
            if rng.random() < style.loud:
                pool = tuple(stamp for stamp in pool if stamp.kind or set(stamp.generic) & set(_LOUD)) or pool
            taken = {copies[0].family for copies in cast}
            # Family, then word, then picture: there are 24 flowers and one violin.
            one = _draw(sorted({stamp.family for stamp in pool} - taken), rng)
            word = _draw(sorted({stamp.word for stamp in pool if stamp.family == one}), rng)
            pictures = [stamp for stamp in pool if stamp.word == word and stamp.family == one]
            first = _draw(pictures, rng)
            copies = int(rng.integers(2, 9)) if rng.random() < style.flock else 1
            # Copies of one animal, or of all that there are of its word.
            pictures = [first] if rng.random() < 0.5 else [p for p in pictures if p.generic == first.generic]
            cast.append((first, *(_draw(pictures, rng) for _ in range(copies - 1))))
        composition = "\n".join(sorted({stamp.stem for copies in cast for stamp in copies}))
        if int.from_bytes(hashlib.sha256(composition.encode()).digest()[:4], "big") % 10 in _TENTHS[split]:
            return cast


def _draw(choices: Sequence[One], rng: np.random.Generator) -> One:
    return choices[rng.integers(len(choices))]


def _gains(rng: np.random.Generator) -> tuple[float, float, float]:
    """Contrast times a colour cast."""
    return tuple(float(gain) for gain in rng.uniform(0.7, 1.25) * rng.uniform(0.9, 1.1, 3))


def _lay_out(
    catalog: WordCatalog,
    cast: list[tuple[WordStamp, ...]],
    aspect: float,
    shrink: float,
    close: bool,
    rng: np.random.Generator,
) -> tuple[tuple[Placed, ...], tuple[int, ...]]:
    """Sizes, places, order and motion of all stamps, in drawing order, and the thing each belongs to. close: the first
    thing is.
    """
    across, down = canvas(aspect)
    centres: list[np.ndarray] = []
    placed: list[tuple[Placed, int]] = []
    for thing in rng.permutation(len(cast)):
        copies = cast[thing]
        size = _SMALLEST * (_LARGEST / _SMALLEST) ** (rng.random() ** 0.35) * shrink
        if len(copies) > 1:
            size = min(size, 1.1 / len(copies) ** 0.5) * rng.uniform(0.5, 1.0)
        near = close and thing == 0
        if near:
            size = rng.uniform(*_CLOSE) * shrink
        # The best of a few places is far from the other things; it may well be at the edge.
        places = np.array([across, down]) * (0.5 + rng.uniform(-0.44, 0.44, (3, 2)))
        centre = max(places, key=lambda place: min((float(np.hypot(*(place - c))) for c in centres), default=0.0))
        centres.append(centre)
        placed += [
            (_place(catalog, copy, where, scale, gains, feather, near, rng), int(thing) + 1)
            for copy, (where, scale, gains, feather) in zip(copies, _poses(len(copies), centre, size, rng), strict=True)
        ]
    return tuple(stamp for stamp, _ in placed), tuple(number for _, number in placed)


def _poses(
    copies: int, centre: np.ndarray, size: float, rng: np.random.Generator
) -> list[tuple[np.ndarray, float, tuple[float, float, float], float]]:
    """Place, size, colour and softness of each copy; the lower ones of a flock are larger, and lie on top."""
    gains, feather = np.array(_gains(rng)), float(rng.uniform(0.2, 1.6)) if rng.random() < 0.7 else 0.0
    if copies == 1:
        return [(centre, size, tuple(gains.tolist()), feather)]
    offsets = rng.normal(0, 1, (copies, 2)) * np.array([0.75, 0.4]) * size * copies**0.4
    offsets = offsets[np.argsort(offsets[:, 1])]
    depth = np.clip(1 + 0.25 * offsets[:, 1] / (np.abs(offsets[:, 1]).max() + 1e-9), 0.6, 1.4)
    sizes = size * depth * np.exp(rng.normal(0, 0.12, copies))
    return [
        (centre + offset, float(one), tuple((gains * rng.uniform(0.9, 1.1)).tolist()), feather)
        for offset, one in zip(offsets, sizes, strict=True)
    ]


def _place(
    catalog: WordCatalog,
    stamp: WordStamp,
    centre: np.ndarray,
    size: float,
    gains: tuple[float, float, float],
    feather: float,
    close: bool,
    rng: np.random.Generator,
) -> Placed:
    sprite = load_sprite(catalog.root / f"{stamp.stem}.png")
    long_side, short_side = max(sprite.width, sprite.height), min(sprite.width, sprite.height)
    longest, enlarged = (2 * _CLOSE[1], _CLOSE_ENLARGED) if close else (1.2, _ENLARGED)
    size = min(size, longest * (short_side / long_side) ** 0.5, enlarged * (sprite.width * sprite.height) ** 0.5)
    return Placed(
        stem=stamp.stem,
        kind=stamp.kind,
        class_id=0,
        spans=(),
        x=float(centre[0]),
        y=float(centre[1]),
        size=float(size),
        angle=float(rng.normal(0, 8)),
        flip=bool(rng.random() < 0.5),
        drift_x=float(rng.normal(0, 0.03)),
        drift_y=float(rng.normal(0, 0.015)),
        growth=float(rng.uniform(-0.04, 0.04)),
        spin=float(rng.uniform(-2, 2)),
        sway=float(rng.uniform(0, 0.02)),
        sway_frequency=float(rng.uniform(0.2, 0.8)),
        sway_phase=float(rng.uniform(0, 2 * np.pi)),
        gains=gains,
        offset=float(rng.uniform(-20, 20)),
        feather=feather,
    )


def _all_seen(scene: Scene, thing_of: tuple[int, ...], things: int, times: list[float]) -> bool:
    """Whether at all times enough is seen of every thing."""
    shares = visible_shares(scene, times)
    of = np.array(thing_of)
    across, down = canvas(scene.aspect)
    for number in range(1, things + 1):
        mine = shares[:, of == number]
        boxes = np.array([stamp.size**2 for stamp, other in zip(scene.stamps, of, strict=True) if other == number])
        area = (mine * boxes * 0.5).sum(axis=1) / (across * down)  # a cut-out fills about half of its box
        if mine.max(axis=1).min() < _VISIBLE or area.min() < _LEAST:
            return False
    return True
