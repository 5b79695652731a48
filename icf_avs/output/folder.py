"""The folder of one video's results: complete or not there at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from av.error import FFmpegError

from icf_avs.atomic_io import unfinished_folder
from icf_avs.errors import UserError
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


@contextmanager
def replaced_when_complete(folder: Path) -> Iterator[Path]:
    """Give an empty hidden folder to write to; it takes the place of `folder` only if the block ends well.

    Otherwise nothing of it stays and an earlier `folder` is untouched. Raises UserError if nothing can be written.
    """
    with being_written(folder) as new:
        yield new
        put_in_place(new, lambda: folder)


@contextmanager
def being_written(folder: Path) -> Iterator[Path]:
    """Give an empty hidden folder beside `folder`, which is gone when the block ends, unless `put_in_place` moved it.

    Raises UserError if nothing can be written.
    """
    out = folder.parent
    made = [path for path in (out, *out.parents) if not path.exists()]  # innermost first
    try:
        out.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(out) as new:
            yield new
    except (OSError, FFmpegError) as error:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; name a folder for --out") from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: cannot be written ({reason}); free some space or choose another --out") from error
    finally:
        with suppress(OSError):  # stops at the first that holds something
            for parent in made:
                parent.rmdir()


def put_in_place(new: Path, place: Callable[[], Path]) -> Path:
    """Rename `new` to the folder that place() says, whose content goes; nothing is lost if that fails.

    `place` is asked again where another process has taken that name meanwhile. All on one file system.
    """
    for attempt in range(100):
        folder, old = place(), new.with_name(f"old{attempt}")
        try:
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
            return folder
        except OSError as error:
            if old.exists():
                with suppress(OSError):  # taken by a newer one
                    os.rename(old, folder)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not new.exists():
                raise
    raise UserError(f"{folder}: other processes replace it again and again; choose another --out")
