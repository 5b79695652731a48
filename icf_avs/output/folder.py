"""The folder of one video's results: complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from av.error import FFmpegError

from icf_avs.errors import UserError


def result_folder(out: Path, video: Path, taken: set[Path] = frozenset()) -> Path:
    """out/STEM for this video, or out/STEM_2, ... where that name belongs to something else.

    A folder may be replaced if it holds an earlier result for a video of the same file name. `taken` are the
    folders of other videos of the same run.
    """
    number = 1
    while True:
        folder = out / (video.stem if number == 1 else f"{video.stem}_{number}")
        if not _same_name(folder, taken) and (not os.path.lexists(folder) or is_earlier_result(folder, video)):
            return folder
        number += 1


def _same_name(folder: Path, taken: set[Path]) -> bool:
    """Some file systems do not tell DOG from dog."""
    return str(folder).casefold() in {str(other).casefold() for other in taken}


def is_earlier_result(folder: Path, video: Path) -> bool:
    """Whether `folder` holds a result for a video of this file name, so that a new one may replace it."""
    if folder.resolve() in video.resolve().parents:
        return False
    try:
        document = json.loads((folder / "segmentation.json").read_text(encoding="utf-8"))
        return document["video"]["file"] == video.name
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


@contextmanager
def replaced_when_complete(folder: Path) -> Iterator[Path]:
    """Give an empty hidden folder to write to; it takes the place of `folder` only if the block ends well.

    Otherwise nothing of it stays and an earlier `folder` is untouched. Raises UserError if nothing can be written.
    """
    out = folder.parent
    made = [path for path in (out, *out.parents) if not path.exists()]  # innermost first
    hidden = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".icf-", dir=out))
        new = hidden / "new"  # made by mkdir, so that it gets the usual permissions
        new.mkdir()
        yield new
        put_in_place(new, folder, hidden / "old")
    except (OSError, FFmpegError) as error:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; name a folder for --out") from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: cannot be written ({reason}); free some space or choose another --out") from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        with suppress(OSError):  # stops at the first that holds something
            for parent in made:
                parent.rmdir()


def put_in_place(new: Path, folder: Path, old: Path) -> None:
    """Rename `new` to `folder`; what was there is at `old` then, and back if that fails. All on one file system."""
    if not folder.exists():
        os.rename(new, folder)
        return
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
