"""Paths for FFmpeg, which takes what stands before a colon for a protocol, as in "take:2/a.mp4" or "pipe:1"."""

from __future__ import annotations

import os


def local_url(path: str | os.PathLike[str]) -> str:
    """A path as FFmpeg takes it for a local file, whatever is in its name."""
    return f"file:{os.path.abspath(path)}"
