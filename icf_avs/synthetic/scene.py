"""A composed scene: a small picklable description that rendering.py and sounds.py turn into images and sound."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPLITS = ("train", "val", "test", "cross", "cross-val")  # append new ones: random streams depend on the position


_BASE = {"cross": "test", "cross-val": "val"}  # splits with other recordings than training


def uses_cross_recordings(split: str) -> bool:
    """Return True if the sounds of a split are other recordings than those of training."""
    return split in _BASE


def base_split(split: str) -> str:
    """Return the split whose compositions and backgrounds are used: "train", "val" or "test"."""
    return _BASE.get(split, split)


def hash_decile(text: str) -> int:
    """Return a number from 0 to 9 by the hash of a text; it determines the split of a background or a composition."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10


@dataclass(frozen=True)
class PlacedStamp:
    """A stamp in a scene. Lengths are in shorter sides of the canvas, angles in degrees, rates per second."""

    stem: str
    class_name: str  # empty for a distractor
    class_id: int  # 0 for a distractor, and in open-vocabulary scenes
    spans: tuple[tuple[float, float], ...]  # seconds in which it sounds; empty: silent
    x: float
    y: float
    size: float  # square root of the area of its box
    angle: float = 0.0
    flip: bool = False
    drift_x: float = 0.0
    drift_y: float = 0.0
    growth: float = 0.0
    spin: float = 0.0
    sway: float = 0.0
    sway_frequency: float = 0.0
    sway_phase: float = 0.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0
    feather: float = 0.0  # pixels of blur at 224


@dataclass(frozen=True)
class OpenVocabObject:
    """An object of an open-vocabulary scene: one or several stamps of one word."""

    words: tuple[str, ...]  # the usual word first
    generic: tuple[str, ...]  # words that name it and others
    class_name: str  # of its sound; empty if unknown
    color_transfer: float  # how far its colours are moved towards the background's, 0 to 1


@dataclass(frozen=True)
class Shadow:
    """Shadow of all objects on the background; not part of their masks. Offsets are in shorter sides of the image."""

    offset_x: float
    offset_y: float
    softness: float  # standard deviation of its edge, shorter sides
    darkness: float  # share of the light that it removes


@dataclass(frozen=True)
class Camera:
    """Changes of the image by the camera; by default none."""

    flip_background: bool = False
    gamma: float = 1.0
    detail: float = 1.0  # share of the full resolution
    blur: float = 0.0  # pixels at 448
    noise: float = 0.0  # standard deviation, of 255


@dataclass(frozen=True)
class Scene:
    """Everything needed to render a clip. `stamps` are in drawing order: the last one is on top.

    Open-vocabulary scenes have `objects`; `object_of` is the number (1..) of the object of each stamp.
    """

    root: Path
    split: str
    index: int
    seed: int
    seconds: int
    aspect: float
    background: str
    zoom: float = 1.0
    pan_x: float = 0.0
    pan_y: float = 0.0
    pan_speed_x: float = 0.0
    pan_speed_y: float = 0.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0
    jpeg_quality: int = 0  # 0: none
    stamps: tuple[PlacedStamp, ...] = ()
    object_of: tuple[int, ...] = ()
    objects: tuple[OpenVocabObject, ...] = ()
    camera: Camera = Camera()
    shadow: Shadow | None = None

    @property
    def key(self) -> list[int]:
        """Seed of all randomness in this scene."""
        return [self.seed, SPLITS.index(self.split), self.index]

    def path(self, stamp: PlacedStamp) -> Path:
        """The PNG file of a stamp."""
        return self.root / f"{stamp.stem}.png"

    def object_map(self, stamp_map: np.ndarray) -> np.ndarray:
        """Stamp numbers (0 background, i + 1 for stamp i) -> object numbers, uint8 of the same shape."""
        return np.array((0, *self.object_of), np.uint8)[stamp_map]

    def objects_named(self, word: str) -> tuple[int, ...]:
        """Return the numbers of all objects that a word names; none for an absent word."""
        named = enumerate(self.objects, start=1)
        return tuple(number for number, named_object in named if word in named_object.words + named_object.generic)

    @property
    def present_words(self) -> tuple[str, ...]:
        """Every word that names something in the image, sorted."""
        return tuple(sorted({word for each in self.objects for word in (*each.words, *each.generic)}))
