"""Segmentation result of a whole video: run-length encoded masks with their times, scores and tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icf_avs.mask_rle import decode, encode
from icf_avs.media.video_reader import MediaInfo
from icf_avs.types import ClipSpec, Missing


@dataclass(frozen=True)
class ClassMask:
    """The pixels of a mask that belong to one class."""

    category_id: int  # 1 is the first class; background (0) has no mask
    area: float  # share of the frame, 0 to 1
    score: float  # mean sounding probability of its pixels
    run_lengths: dict[str, Any]


@dataclass(frozen=True)
class FrameMask:
    """One run-length encoded mask of a video, with its interval, scores and tags."""

    index: int
    start: float  # seconds; the mask covers the interval [start, end)
    end: float
    picture_time: float  # seconds; time of the frame that was segmented
    area: float  # share of the frame, 0 to 1
    score: float  # mean probability inside the mask, 0 if it is empty
    heard: tuple[tuple[str, float], ...]  # audio tags and probabilities, likeliest first
    run_lengths: dict[str, Any]  # the mask as COCO RLE
    classes: tuple[ClassMask, ...] = ()  # one mask per class, ordered by id
    class_names: tuple[str, ...] = ()  # names of all ids, background first; empty without semantic=True

    @property
    def time(self) -> float:
        """Middle of the interval, in seconds."""
        return (self.start + self.end) / 2

    @property
    def mask(self) -> np.ndarray:
        """The mask, bool [H, W], at the size of the video."""
        return decode(self.run_lengths)

    @property
    def class_ids(self) -> np.ndarray:
        """Class ids, uint8 [H, W], at the size of the video; 0 where nothing sounds. Raises ValueError unless segmented
        with semantic=True.
        """
        if not self.class_names:
            raise ValueError("there are no classes; segment with semantic=True")
        ids = np.zeros(self.run_lengths["size"], np.uint8)
        for part in self.classes:
            ids[decode(part.run_lengths)] = part.category_id
        return ids


def class_masks(ids: np.ndarray, probability: np.ndarray) -> tuple[ClassMask, ...]:
    """Return one mask per class that occurs. ids: class ids, uint8 [H, W]; probability: [H, W], that a pixel sounds."""
    found = []
    for index in np.unique(ids[ids > 0]).tolist():
        part = ids == index
        found.append(ClassMask(index, float(part.mean()), float(probability[part].mean()), encode(part)))
    return tuple(found)


@dataclass(frozen=True)
class Segmentation:
    """All masks of a video, stored as run lengths and decoded on access."""

    video: MediaInfo
    spec: ClipSpec
    frames: tuple[FrameMask, ...]
    folder: Path | None  # result folder, None if nothing was written
    missing: tuple[Missing, ...] = ()  # parts of the model that were unavailable, and the effect of that

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def times(self) -> np.ndarray:
        """Middle of each interval in seconds, [n]."""
        return np.array([frame.time for frame in self.frames])

    @property
    def masks(self) -> np.ndarray:
        """All masks, bool [n, H, W]; for a long video, iterate over `frames` instead."""
        return np.stack([frame.mask for frame in self.frames])

    @property
    def class_ids(self) -> np.ndarray:
        """Class ids, uint8 [n, H, W]: 0 where nothing sounds, else an index into `class_names`. Raises as FrameMask."""
        return np.stack([frame.class_ids for frame in self.frames])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class id, "background" first; empty unless segmented with semantic=True."""
        return self.frames[0].class_names

    @property
    def scores(self) -> np.ndarray:
        """Mean probability inside each mask, [n]."""
        return np.array([frame.score for frame in self.frames])

    @property
    def areas(self) -> np.ndarray:
        """Area of each mask as a share of the frame, [n]."""
        return np.array([frame.area for frame in self.frames])

    @property
    def heard(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """The likeliest audio tags of each frame, with their probabilities."""
        return tuple(frame.heard for frame in self.frames)
