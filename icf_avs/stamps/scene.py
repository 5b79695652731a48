"""A scene of the embedded benchmark: a small picklable description; rendering.py and soundtrack.py bring it to life."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val", "test", "cross", "cross-val")  # new ones at the end: scenes are drawn by their numbers


def is_cross(split: str) -> bool:
    """Whether a split has other recordings than training."""
    return split in ("cross", "cross-val")


def dealt(split: str) -> str:
    """Whose compositions and backgrounds a split has: "train", "val" or "test"."""
    return {"cross": "test", "cross-val": "val"}.get(split, split)


@dataclass(frozen=True)
class Placed:
    """A stamp in a scene. Lengths are in shorter sides of the canvas, angles in degrees, rates per second."""

    stem: str
    kind: str  # empty for a distractor
    class_id: int  # 0 for a distractor
    spans: tuple[tuple[float, float], ...]  # seconds in which it sounds; empty: silent
    x: float
    y: float
    size: float  # square root of the area of its box
    angle: float
    flip: bool
    drift_x: float
    drift_y: float
    growth: float
    spin: float
    sway: float
    sway_frequency: float
    sway_phase: float
    gains: tuple[float, float, float]
    offset: float
    feather: float  # pixels of blur at 224


@dataclass(frozen=True)
class Scene:
    """All that is needed to render a clip. `stamps` are in drawing order: the last one lies on top."""

    root: Path
    split: str
    index: int
    seed: int
    seconds: int
    aspect: float
    background: str
    zoom: float
    pan_x: float
    pan_y: float
    pan_speed_x: float
    pan_speed_y: float
    gains: tuple[float, float, float]
    offset: float
    jpeg_quality: int  # 0: none
    stamps: tuple[Placed, ...]

    @property
    def key(self) -> list[int]:
        """Seed of everything random in this scene."""
        return [self.seed, SPLITS.index(self.split), self.index]
