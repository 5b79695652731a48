"""Paths for FFmpeg, which takes what stands before a colon for a protocol, as in "take:2/a.mp4" or "pipe:1"."""

from __future__ import annotations

import os
from pathlib import Path

from icf_avs.errors import UserError


def local_url(path: str | os.PathLike[str]) -> str:
    """A path as FFmpeg takes it for a local file, whatever is in its name."""
    return f"file:{os.path.abspath(path)}"


def check_file(path: Path) -> None:
    """Raise UserError unless a path names a file."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file inside it")
    check_no_pipe(path)


def check_no_pipe(path: Path) -> None:
    """Raise UserError for a pipe or a device: to open one may block for ever, and it is read only once."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a pipe or a device, which is read only once; save what it gives as a file first")
