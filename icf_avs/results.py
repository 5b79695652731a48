"""The result for a whole video: its masks, held as run lengths, and what goes with each."""

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
    """The part of a mask that is of one class."""

    category_id: int  # 1 is the first class; 0, background, has no mask
    area: float  # share of the frame, 0 to 1
    score: float  # mean probability, in it, that the pixel sounds
    run_lengths: dict[str, Any]


@dataclass(frozen=True)
class FrameMask:
    """One mask of a video, as run lengths, and what goes with it."""

    index: int
    start: float  # seconds; the mask stands for [start, end)
    end: float
    picture_time: float  # seconds, of the frame that the model saw
    area: float  # share of the frame, 0 to 1
    score: float  # mean probability inside the mask, 0 if it is empty
    heard: tuple[tuple[str, float], ...]  # words and probabilities, the likeliest first
    run_lengths: dict[str, Any]  # the mask as COCO RLE
    classes: tuple[ClassMask, ...] = ()  # its parts by class, in the order of the ids
    class_names: tuple[str, ...] = ()  # of all ids, background first; empty without semantic=True

    @property
    def time(self) -> float:
        """Middle of the interval, in seconds."""
        return (self.start + self.end) / 2

    @property
    def mask(self) -> np.ndarray:
        """Bool [H, W] at the video's own size."""
        return decode(self.run_lengths)

    @property
    def class_ids(self) -> np.ndarray:
        """uint8 [H, W] at the video's own size, 0 where nothing sounds. ValueError unless segmented with
        semantic=True.
        """
        if not self.class_names:
            raise ValueError("there are no classes; segment with semantic=True")
        ids = np.zeros(self.run_lengths["size"], np.uint8)
        for part in self.classes:
            ids[decode(part.run_lengths)] = part.category_id
        return ids


def class_masks(ids: np.ndarray, probability: np.ndarray) -> tuple[ClassMask, ...]:
    """Class ids, uint8 [H, W], and the probability that each pixel sounds -> one mask for each class that occurs."""
    found = []
    for index in np.unique(ids[ids > 0]).tolist():
        part = ids == index
        found.append(ClassMask(index, float(part.mean()), float(probability[part].mean()), encode(part)))
    return tuple(found)


@dataclass(frozen=True)
class Segmentation:
    """All masks of a video. They are held as run lengths and unpacked on access."""

    video: MediaInfo
    spec: ClipSpec
    frames: tuple[FrameMask, ...]
    folder: Path | None  # where the results lie, None if nothing was written
    missing: tuple[Missing, ...] = ()  # parts of the model that were unavailable, and their effect

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def times(self) -> np.ndarray:
        """[n] seconds, the middle of each interval."""
        return np.array([frame.time for frame in self.frames])

    @property
    def masks(self) -> np.ndarray:
        """Bool [n, H, W]; for a long video go through `frames` instead."""
        return np.stack([frame.mask for frame in self.frames])

    @property
    def class_ids(self) -> np.ndarray:
        """uint8 [n, H, W], 0 where nothing sounds, else an index of `class_names`. ValueError as in FrameMask."""
        return np.stack([frame.class_ids for frame in self.frames])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class id, "background" first; empty unless segmented with semantic=True."""
        return self.frames[0].class_names

    @property
    def scores(self) -> np.ndarray:
        """[n] mean probability inside each mask."""
        return np.array([frame.score for frame in self.frames])

    @property
    def areas(self) -> np.ndarray:
        """[n] share of the frame."""
        return np.array([frame.area for frame in self.frames])

    @property
    def heard(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """Of each frame the likeliest words with their probabilities."""
        return tuple(frame.heard for frame in self.frames)
