"""Write and read segmentation.json, the result of a whole video; choose the result folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_avs.config_dict import check_settings
from icf_avs.errors import UserError
from icf_avs.mask_rle import check_run_lengths
from icf_avs.media.packets import MAX_PIXELS
from icf_avs.output.class_overlay import palette
from icf_avs.provenance import Source
from icf_avs.results import ClassMask, FrameMask, Segmentation
from icf_avs.types import ClipSpec, Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icf_avs.media.video_reader import MediaInfo

JSON_VERSION = 1


def document(
    info: MediaInfo, spec: ClipSpec, checkpoint: str, frames: Sequence[FrameMask], source: dict[str, Any],
    made_with: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return the content of segmentation.json, see segmentation.schema.json. Times are in seconds from the first frame,
    whose time in the container is `start`; areas are a share of the frame.

    source: identifies the video file; made_with: model and settings. With classes, the document has all `categories`
    and each frame has `classes`; if damage in the video was repaired, it has `repaired`.
    """
    names, repaired = frames[0].class_names, info.repaired.document()
    colours = palette(max(1, len(names))).tolist()
    categories = [{"id": index, "name": names[index], "color": colours[index]} for index in range(1, len(names))]
    return {
        "version": JSON_VERSION,
        "video": {
            "file": info.path.name, "width": info.width, "height": info.height, "start": round(info.start, 6),
            "duration": round(info.duration, 6), "fps": round(info.frame_rate, 6),
        },
        "source": source,
        **({"repaired": repaired} if repaired else {}),
        "checkpoint": checkpoint,
        "made_with": made_with,
        "clip": asdict(spec),
        **({"categories": categories} if names else {}),
        "frames": [_frame_document(frame) for frame in frames],
    }  # fmt: skip


def _frame_document(frame: FrameMask) -> dict[str, Any]:
    names = ("time", "start", "end", "picture_time", "area", "score")
    values = {
        "index": frame.index,
        **{name: round(getattr(frame, name), 6) for name in names},
        "heard": [{"word": word, "probability": round(value, 4)} for word, value in frame.heard],
        "segmentation": frame.run_lengths,
    }
    if frame.class_names:
        values["classes"] = [
            {
                "category_id": part.category_id, "name": frame.class_names[part.category_id],
                "area": round(part.area, 6), "score": round(part.score, 6), "segmentation": part.run_lengths,
            }
            for part in frame.classes
        ]  # fmt: skip
    return values


@dataclass(frozen=True)
class SavedMediaInfo:
    """The part of MediaInfo that is stored in segmentation.json."""

    path: Path  # only the file name
    duration: float  # seconds
    width: int
    height: int
    frame_rate: float  # frames per second, on average
    source: dict[str, Any]  # path (if recorded), bytes and sha256

    def unchanged(self) -> Path:
        """Return the path of the video. Raises UserError if the path is unknown or the video has moved or changed."""
        path = Path(str(self.source.get("path", self.path)))
        try:
            if "path" in self.source and Source(path).content.items() <= self.source.items():
                return path
        except (OSError, ValueError):  # ValueError: zero byte in the path
            pass
        raise UserError(f"{path}: has moved or changed since it was segmented; segment it again")


def read_segmentation(folder: str | Path) -> Segmentation:
    """Read the Segmentation that `icf segment` wrote to a folder; its `video` is a SavedMediaInfo.

    Times, areas and scores are rounded as in the file. Raises UserError if the folder has no complete result of this
    version.
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
    width, height = facts["width"], facts["height"]
    if not all(type(side) is int and side > 0 for side in (width, height)):
        raise ValueError("its frames have no size")
    if width * height > MAX_PIXELS:
        raise ValueError(f"its frames are {width} x {height}, larger than 8K")
    file, duration, rate = _text(facts["file"]), _number(facts["duration"]), _number(facts["fps"])
    video = SavedMediaInfo(Path(file), duration, width, height, rate, dict(document.get("source", {})))
    categories = document.get("categories", ())
    names = tuple(_text(category["name"]) for category in categories)
    if [category["id"] for category in categories] != [*range(1, len(names) + 1)]:
        raise ValueError("the ids of its categories are not 1, 2, ...")
    frames = tuple(_frame(values, ("background", *names) if names else ()) for values in document["frames"])
    if not frames or [frame.index for frame in frames] != [*range(len(frames))]:
        raise ValueError("masks are missing")
    for part in (part for frame in frames for part in (frame, *frame.classes)):
        check_run_lengths(part.run_lengths, height, width)
    spec = ClipSpec(**document["clip"])
    check_settings(spec)
    without = document.get("made_with", {}).get("without", ())
    missing = tuple(Missing(_text(part["part"]), _text(part["effect"])) for part in without)
    return Segmentation(video, spec, frames, folder, missing)


def _frame(values: dict[str, Any], names: tuple[str, ...]) -> FrameMask:
    parts = values["classes"] if names else ()
    if not all(1 <= part["category_id"] < len(names) for part in parts):
        raise ValueError(f"mask {values['index']} has a class without a name")
    return FrameMask(
        index=values["index"],
        **{name: _number(values[name]) for name in ("start", "end", "picture_time")},
        **{name: _number(values[name], 1) for name in ("area", "score")},
        heard=tuple((_text(item["word"]), _number(item["probability"], 1)) for item in values["heard"]),
        run_lengths=values["segmentation"],
        classes=tuple(
            ClassMask(part["category_id"], _number(part["area"], 1), _number(part["score"], 1), part["segmentation"])
            for part in parts
        ),
        class_names=names,
    )


def _number(value: Any, most: float = 1e6) -> float:
    """Return a finite number from 0 to `most`: seconds, or a share if most is 1. Raises ValueError for other values."""
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a number from 0 to {most:g}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is not text")
    return value


def result_folder(out: Path, video: Source, reserved_dirs: set[Path] = frozenset()) -> Path:
    """Return out/STEM for this video, or out/STEM_2, ... if the name is taken.

    A folder may be replaced if it holds an earlier result for this video. reserved_dirs: folders of other videos of the
    same run; compared without case, as some file systems do not distinguish DOG from dog.
    """
    taken = {str(folder).casefold() for folder in reserved_dirs}
    stem = video.path.stem
    return next(
        folder
        for folder in (out / name for name in chain([stem], (f"{stem}_{number}" for number in count(2))))
        if str(folder).casefold() not in taken and (not os.path.lexists(folder) or is_earlier_result(folder, video))
    )


def is_earlier_result(folder: Path, video: Source) -> bool:
    """True if `folder` holds a result for this video, so that a new one may replace it."""
    if folder.resolve() in video.path.resolve().parents:
        return False
    try:
        document = json.loads((folder / "segmentation.json").read_text(encoding="utf-8"))
        return video.matches(document["source"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
