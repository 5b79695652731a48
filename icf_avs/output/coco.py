"""Masks as COCO run lengths, and the JSON file that holds a whole segmentation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icf_avs.contracts import ClipSpec
    from icf_avs.data.media import MediaInfo

JSON_VERSION = 1


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Bool [H, W] -> {"size": [H, W], "counts": text}, as pycocotools reads it."""
    run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode("ascii")}


def decode(run_lengths: dict[str, Any]) -> np.ndarray:
    """The inverse of encode: bool [H, W]."""
    return coco_mask.decode(run_lengths).astype(bool)


@dataclass(frozen=True)
class FrameMask:
    """One mask of a video, as run lengths, and what goes with it."""

    index: int
    start: float  # seconds; the mask stands for [start, end)
    end: float
    picture_time: float  # seconds, of the picture that the model saw
    area: float  # share of the picture, 0 to 1
    score: float  # mean probability inside the mask, 0 if it is empty
    heard: tuple[tuple[str, float], ...]  # words and probabilities, the likeliest first
    run_lengths: dict[str, Any]  # the mask as COCO RLE

    @property
    def time(self) -> float:
        """Middle of the interval, in seconds."""
        return (self.start + self.end) / 2

    @property
    def mask(self) -> np.ndarray:
        """Bool [H, W] at the video's own size."""
        return decode(self.run_lengths)


def document(info: MediaInfo, spec: ClipSpec, checkpoint: str, frames: Sequence[FrameMask]) -> dict[str, Any]:
    """The content of segmentation.json. Times in seconds from the first picture, areas as a share of the picture."""
    return {
        "version": JSON_VERSION,
        "video": {
            "file": info.path.name,
            "width": info.width,
            "height": info.height,
            "duration": round(info.duration, 6),
            "fps": round(info.frame_rate, 6),
        },
        "checkpoint": checkpoint,
        "clip": asdict(spec),
        "frames": [
            {
                "index": frame.index,
                "time": round(frame.time, 6),
                "start": round(frame.start, 6),
                "end": round(frame.end, 6),
                "picture_time": round(frame.picture_time, 6),
                "area": round(frame.area, 6),
                "score": round(frame.score, 6),
                "heard": [{"word": word, "probability": round(value, 4)} for word, value in frame.heard],
                "segmentation": frame.run_lengths,
            }
            for frame in frames
        ],
    }
