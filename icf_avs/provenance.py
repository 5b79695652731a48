"""Which file a result was made from, identified by its place and its content."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(sha256: str) -> str:
    """Its first twelve digits, which identify a checkpoint in tables of scores."""
    return sha256[:12]


@dataclass(frozen=True)
class Source:
    """A video file, by its place and by its content, which is read on first use."""

    path: Path

    @cached_property
    def place(self) -> str:
        return os.path.realpath(self.path)

    @cached_property
    def content(self) -> dict[str, Any]:
        return {"bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}

    def is_that_of(self, recorded: dict[str, Any]) -> bool:
        """Whether a result that recorded its `place` as "path", and its `content`, is of this video: of the same file,
        whatever is in it by now, or of one with the same content. Raises OSError if it cannot be read.
        """
        if recorded.get("path") == self.place:
            return True
        return recorded["bytes"] == self.path.stat().st_size and recorded["sha256"] == self.content["sha256"]
