"""Masks as COCO run lengths, and the JSON file that holds a whole segmentation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from icf_avs.output.class_overlay import palette

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icf_avs.contracts import ClipSpec
    from icf_avs.data.media import MediaInfo

JSON_VERSION = 1


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Bool [H, W] -> {"size": [H, W], "counts": text}, as pycocotools reads it."""
    run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode("ascii")}


def encode_nothing(height: int, width: int) -> dict[str, Any]:
    """encode(zeros [height, width])."""
    return {"size": [height, width], "counts": _nothing(height, width)}


def decode(run_lengths: dict[str, Any]) -> np.ndarray:
    """The inverse of encode: bool [H, W]."""
    if run_lengths["counts"] == _nothing(*run_lengths["size"]):
        return np.zeros(run_lengths["size"], bool)
    return coco_mask.decode(run_lengths).astype(bool)


@lru_cache(maxsize=4)
def _nothing(height: int, width: int) -> str:
    """Run lengths of a mask without a mark: of the many in a video, none is worked out."""
    return encode(np.zeros((height, width), bool))["counts"]


def check_run_lengths(run_lengths: dict[str, Any], height: int, width: int) -> None:
    """Raise ValueError unless these are run lengths of a mask of that size.

    For those out of a file: pycocotools writes beyond its memory for some that are broken.
    """
    text = run_lengths["counts"]
    if run_lengths["size"] != [height, width]:
        raise ValueError("a mask is not of the size of the video")
    counts, value, shift = [], 0, 0
    for code in text.encode("ascii", "replace"):  # 5 bits a character, the lowest first; the sixth says: more to come
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("the run lengths of a mask are broken")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the highest bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))  # from the fourth on, the change by two runs
            value = shift = 0
    if shift or min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise ValueError("the run lengths of a mask are broken")


@dataclass(frozen=True)
class ClassMask:
    """The part of a mask that is of one class."""

    category_id: int  # 1 is the first class; 0, background, has no mask
    area: float  # share of the picture, 0 to 1
    score: float  # mean probability, in it, that the pixel sounds
    run_lengths: dict[str, Any]


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
    classes: tuple[ClassMask, ...] = ()  # its parts by class, in the order of the ids
    class_names: tuple[str, ...] = ()  # of all ids, background first; empty unless classes were asked for

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
        """uint8 [H, W] at the video's own size, 0 where nothing sounds.

        Raises ValueError unless segmented with semantic=True.
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


def document(
    info: MediaInfo, spec: ClipSpec, checkpoint: str, frames: Sequence[FrameMask], source: dict[str, Any],
    made_with: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The content of segmentation.json. Times in seconds from the first picture, areas as a share of the picture.

    `source` tells which file the video is, `made_with` what made the result (provenance.py). With classes it has the
    list of all `categories` as well, and each frame its `classes`; with what was wrong with the video and read all the
    same, `repaired`.
    """
    names = frames[0].class_names
    repaired = info.repaired.document()
    return {
        "version": JSON_VERSION,
        "video": {
            "file": info.path.name,
            "width": info.width,
            "height": info.height,
            "duration": round(info.duration, 6),
            "fps": round(info.frame_rate, 6),
        },
        "source": source,
        **({"repaired": repaired} if repaired else {}),
        "checkpoint": checkpoint,
        "made_with": made_with,
        "clip": asdict(spec),
        **({"categories": _categories(names)} if names else {}),
        "frames": [_frame(frame) for frame in frames],
    }


def _categories(names: tuple[str, ...]) -> list[dict[str, Any]]:
    colours = palette(len(names)).tolist()
    return [{"id": index, "name": names[index], "color": colours[index]} for index in range(1, len(names))]


def _frame(frame: FrameMask) -> dict[str, Any]:
    values = {
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
    if frame.class_names:
        values["classes"] = [
            {
                "category_id": part.category_id,
                "name": frame.class_names[part.category_id],
                "area": round(part.area, 6),
                "score": round(part.score, 6),
                "segmentation": part.run_lengths,
            }
            for part in frame.classes
        ]
    return values
