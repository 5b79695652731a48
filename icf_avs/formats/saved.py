"""A finished folder of `icf segment`, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_avs.checkpoint_header import check_settings
from icf_avs.contracts import ClipSpec, Missing
from icf_avs.data.scan import MOST_PIXELS
from icf_avs.errors import UserError
from icf_avs.output.coco import JSON_VERSION, ClassMask, FrameMask, check_run_lengths
from icf_avs.segmentation import Segmentation


@dataclass(frozen=True)
class SavedVideo:
    """What segmentation.json knows of its video: the part of MediaInfo that needs no look at the video itself."""

    path: Path  # only its name
    duration: float  # seconds
    width: int
    height: int
    frame_rate: float  # pictures a second, on average


def read_segmentation(folder: str | Path) -> Segmentation:
    """The Segmentation that `icf segment` wrote to a folder, with a SavedVideo as its `video`.

    Times, areas and scores are rounded as in the file. Raises UserError if the folder holds no result, or not a whole
    one of this version.
    """
    folder = Path(folder)
    path = folder / "segmentation.json"
    if not path.is_file():
        raise UserError(f"{folder}: has no segmentation.json; name a folder that `icf segment` wrote, OUT/NAME")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != JSON_VERSION:
            raise ValueError(f"version {document['version']}")
        return _segmentation(document, folder)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(
            f"{path}: not what this version of `icf segment` writes ({error}); segment the video again"
        ) from error


def _segmentation(document: dict[str, Any], folder: Path) -> Segmentation:
    facts = document["video"]
    video = SavedVideo(
        Path(_text(facts["file"])), _number(facts["duration"]), facts["width"], facts["height"], _number(facts["fps"])
    )
    if not all(type(side) is int and side > 0 for side in (video.width, video.height)):
        raise ValueError("its pictures have no size")
    if video.width * video.height > MOST_PIXELS:
        raise ValueError(f"its pictures are {video.width} x {video.height}, larger than 8K")
    names = tuple(_text(category["name"]) for category in document.get("categories", ()))
    if [category["id"] for category in document.get("categories", ())] != [*range(1, len(names) + 1)]:
        raise ValueError("the ids of its categories are not 1, 2, ...")
    if names:
        names = ("background", *names)
    frames = tuple(_frame(values, names) for values in document["frames"])
    if not frames or [frame.index for frame in frames] != [*range(len(frames))]:
        raise ValueError("masks are missing")
    for frame in frames:
        for run_lengths in (frame.run_lengths, *(part.run_lengths for part in frame.classes)):
            check_run_lengths(run_lengths, video.height, video.width)
    spec = ClipSpec(**document["clip"])
    check_settings(spec)
    without = document.get("made_with", {}).get("without", ())
    missing = tuple(Missing(_text(part["part"]), _text(part["effect"])) for part in without)
    return Segmentation(video, spec, frames, folder, missing)


def _frame(values: dict[str, Any], names: tuple[str, ...]) -> FrameMask:
    classes = []
    for part in values["classes"] if names else ():
        if not 1 <= part["category_id"] < len(names):
            raise ValueError(f"mask {values['index']} has a class without a name")
        area, score = _number(part["area"], 1), _number(part["score"], 1)
        classes.append(ClassMask(part["category_id"], area, score, part["segmentation"]))
    return FrameMask(
        index=values["index"],
        start=_number(values["start"]),
        end=_number(values["end"]),
        picture_time=_number(values["picture_time"]),
        area=_number(values["area"], 1),
        score=_number(values["score"], 1),
        heard=tuple((_text(item["word"]), _number(item["probability"], 1)) for item in values["heard"]),
        run_lengths=values["segmentation"],
        classes=tuple(classes),
        class_names=names,
    )


def _number(value: Any, most: float = 1e6) -> float:
    """Seconds, or with `most` a share; not a number, nor infinite, nothing is."""
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is no number from 0 to {most:g}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value
