"""A file that is there complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from av.error import FFmpegError

from icf_avs.atomic_io import replaced_file
from icf_avs.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden path beside `path` to write to; it becomes `path` only if the block ends well.

    Raises UserError if it cannot be written.
    """
    try:
        with replaced_file(path) as new:
            yield new
    except (OSError, FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be written ({reason}); free some space, or see that its folder is there and may be changed"
        ) from error
