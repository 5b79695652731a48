"""A composed clip: an image seen by a slowly moving camera, the sounds of some of its classes, and the labels.

Follows Visual Post-production (VPO; Chen et al., CVPR 2024): an object in an image gets the sound of its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from icf_avs.datasets.layouts import SPLITS
from icf_avs.datasets.video_clip import read_waveform
from icf_avs.errors import UserError
from icf_avs.synthetic.compose.images import AnnotatedImage, ImageSource
from icf_avs.synthetic.compose.material import Material, Recording
from icf_avs.types import RATE

SECONDS = 5
SHORT_SIDE = 240  # shorter side of a frame in the set, pixels
_CONTINUOUS = 0.5  # share of the sources that sound all the time
_ANOTHER = 0.5  # probability of each further source, if the image has one
_VIEW = 0.85, 1.0  # visible share of the photograph's width and height
_LOUDNESS = 0.1  # root mean square of a source while it sounds, before the gain
_GAIN = 3.0  # random gain, dB up or down
_EDGE = 0.02  # share of the peak; softer ends of a recording are trimmed
_AUDIBLE = 0.05  # share of a source's loudest second; a softer second does not count as sounding
_FADE = RATE // 100


@dataclass(frozen=True)
class Source:
    """A class that sounds in seconds [start, end). recordings: in the order in which they are tried."""

    name: str
    recordings: tuple[Recording, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Scene:
    """A clip to render. seed: of all that is drawn when it is rendered."""

    uid: str
    split: str
    image: AnnotatedImage
    sources: tuple[Source, ...]
    seed: tuple[int, ...]


def sample_scenes(material: Material, split: str, count: int, sources: int, seed: int) -> list[Scene]:
    """Sample `count` scenes, taking the classes in turn, with at most `sources` sounding classes each. Deterministic.

    Raises UserError if the split has no class with both images and sounds.
    """
    pools = material.by_class
    if count and not pools:
        raise UserError(
            f"no class has both images and sounds left for the split {split}; give more of them (three of a class "
            f"are one for each split), or ask for --{split} 0"
        )
    scenes = []
    for index in range(count):
        key = (seed, SPLITS.index(split), index)
        rng = np.random.default_rng(key)
        round_number, place = divmod(index, len(pools))
        order = np.random.default_rng([seed, SPLITS.index(split), round_number, 1]).permutation(sorted(pools))
        names = [str(order[place])]
        image = pools[names[0]][rng.integers(len(pools[names[0]]))]
        others = [name for name in material.sounding(image) if name != names[0]]
        while others and len(names) < sources and rng.random() < _ANOTHER:
            names.append(others.pop(rng.integers(len(others))))
        chosen = tuple(_source(name, material.recordings[name], rng) for name in names)
        scenes.append(Scene(f"{split}-{index:06d}", split, image, chosen, key))
    return scenes


def _source(name: str, recordings: Sequence[Recording], rng: np.random.Generator) -> Source:
    order = tuple(recordings[i] for i in rng.permutation(len(recordings))[:8])
    if rng.random() < _CONTINUOUS:
        return Source(name, order, 0, SECONDS)
    start = int(rng.integers(SECONDS - 1))
    return Source(name, order, start, int(rng.integers(start + 1, SECONDS + 1)))


@dataclass(frozen=True)
class Clip:
    """frames and ids (class id of what sounds, uint8 [H, W]), one a second; samples int16, 16 kHz; active [n, SECONDS]
    bool by source; recordings: names of those that were used.
    """

    frames: list[Image.Image]
    ids: list[Image.Image]
    samples: np.ndarray
    active: np.ndarray
    recordings: tuple[str, ...]


def render_clip(
    scene: Scene, images: ImageSource, names: Mapping[str, str], ids: Mapping[str, int], unusable: set[str]
) -> Clip:
    """Render a scene. names: of the set's classes by the images' spelling; ids: their numbers. Raises UserError for a
    file that is missing or broken; recordings are tried in turn, and unusable ones are added to `unusable` by name.
    """
    rng = np.random.default_rng([*scene.seed, 2])
    used = [_first_readable(source.recordings, unusable) for source in scene.sources]
    samples, active = _mix(scene.sources, [waveform for _, waveform in used], rng)
    image, labels = label_image(scene.image, images, names, ids)
    scale = SHORT_SIDE / min(image.size)
    size = tuple(max(round(side * scale), 1) for side in image.size)
    frames, segmented = [], []
    for box, on in zip(_camera(image.size, rng), active.T, strict=True):
        frames.append(image.resize(size, Image.Resampling.BILINEAR, box))
        sounding = [ids[source.name] for source, sounds in zip(scene.sources, on, strict=True) if sounds]
        seen = np.asarray(labels.resize(size, Image.Resampling.NEAREST, box))
        segmented.append(Image.fromarray(np.where(np.isin(seen, sounding), seen, 0).astype(np.uint8)))
    return Clip(frames, segmented, samples, active, tuple(recording.name for recording, _ in used))


def label_image(
    image: AnnotatedImage, images: ImageSource, names: Mapping[str, str], ids: Mapping[str, int]
) -> tuple[Image.Image, Image.Image]:
    """Return an image and the class ids of all that is in it, silent or not; of overlapping ones the smaller wins."""
    shown, masks = images.load(image)
    labels = np.zeros(shown.size[::-1], np.uint8)
    for label, mask in sorted(masks.items(), key=lambda item: (-int(item[1].sum()), item[0])):
        if label in names:
            labels[mask] = ids[names[label]]
    return shown, Image.fromarray(labels)


def _camera(size: tuple[int, int], rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Return the visible box in each second (left, upper, right, lower) of an image; it moves and zooms linearly."""
    share = rng.uniform(*_VIEW, size=2)[:, None]  # in the first second and in the last
    corner = rng.uniform(0, 1, size=(2, 2)) * (1 - share)
    path = np.linspace(0, 1, SECONDS)[:, None]
    views = np.concatenate([corner, corner + share], 1)
    return [tuple(view) for view in ((1 - path) * views[0] + path * views[1]) * np.tile(size, 2)]


def _first_readable(recordings: Sequence[Recording], unusable: set[str]) -> tuple[Recording, np.ndarray]:
    """Return the first readable recording and its waveform without silent ends, float32 [n] at 16 kHz."""
    reason: object = "they are silent"
    for recording in recordings:
        try:
            waveform = read_waveform(recording.path)
        except UserError as error:
            reason = error
        else:
            level = np.abs(waveform)
            loud = np.flatnonzero(level > _EDGE * level.max(initial=0))
            if len(loud) and level.max() > 1e-3:
                return recording, waveform[loud[0] : loud[-1] + 1]
        unusable.add(recording.name)
    label = recordings[0].label
    raise UserError(f"{len(recordings)} recordings of {label} cannot be used: {reason}; replace them")


def _mix(
    sources: Sequence[Source], waveforms: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the sound, int16 [SECONDS * RATE], and which source is audible in which second, bool [n, SECONDS]."""
    tracks = np.zeros((len(sources), SECONDS * RATE))
    for track, source, waveform in zip(tracks, sources, waveforms, strict=True):
        length = (source.end - source.start) * RATE
        offset = int(rng.integers(max(len(waveform) - length, 0) + 1))
        piece = np.resize(waveform[offset : offset + length], length).astype(np.float64)  # repeated if it is shorter
        piece *= _LOUDNESS * 10 ** (rng.uniform(-_GAIN, _GAIN) / 20) / np.sqrt(np.mean(piece**2))
        fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / _FADE)
        track[source.start * RATE : source.end * RATE] = piece * fade
    loudness = np.sqrt((tracks.reshape(len(sources), SECONDS, RATE) ** 2).mean(-1))
    sound = tracks.sum(0)
    sound *= min(1, 0.95 / np.abs(sound).max())
    return np.round(sound * 32767).astype(np.int16), loudness > _AUDIBLE * loudness.max(1, keepdims=True)
