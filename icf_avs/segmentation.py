"""The answer for a whole video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icf_avs.contracts import ClipSpec, Missing
from icf_avs.data.media import MediaInfo
from icf_avs.output.coco import FrameMask


@dataclass(frozen=True)
class Segmentation:
    """All masks of a video. They are held as run lengths and unpacked when asked for."""

    video: MediaInfo
    spec: ClipSpec
    frames: tuple[FrameMask, ...]
    folder: Path | None  # where the results lie, None if nothing was written
    missing: tuple[Missing, ...] = ()  # parts of the model that could not be had, and what is worse for it

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
        """uint8 [n, H, W], 0 where nothing sounds, else an index of `class_names`.

        Raises ValueError unless segmented with semantic=True.
        """
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
        """[n] share of the picture."""
        return np.array([frame.area for frame in self.frames])

    @property
    def heard(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """Of each frame the likeliest words with their probabilities."""
        return tuple(frame.heard for frame in self.frames)
