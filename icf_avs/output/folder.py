"""The folder of one video's results: its name, and whose it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from icf_avs.provenance import Source


def result_folder(out: Path, video: Source, taken: set[Path] = frozenset()) -> Path:
    """out/STEM for this video, or out/STEM_2, ... where that name belongs to something else.

    A folder may be replaced if it holds an earlier result for this very video. `taken` are the folders of other videos
    of the same run.
    """
    number = 1
    while True:
        folder = out / (video.path.stem if number == 1 else f"{video.path.stem}_{number}")
        if not _same_name(folder, taken) and (not os.path.lexists(folder) or is_earlier_result(folder, video)):
            return folder
        number += 1


def _same_name(folder: Path, taken: set[Path]) -> bool:
    """Some file systems do not tell DOG from dog."""
    return str(folder).casefold() in {str(other).casefold() for other in taken}


def is_earlier_result(folder: Path, video: Source) -> bool:
    """Whether `folder` holds a result for this video, so that a new one may replace it."""
    if folder.resolve() in video.path.resolve().parents:
        return False
    try:
        document = json.loads((folder / "segmentation.json").read_text(encoding="utf-8"))
        return video.is_that_of(document["source"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
