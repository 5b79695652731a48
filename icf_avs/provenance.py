"""What a result was made from and with: the video, the checkpoint, the encoders, and what was missing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icf_avs.inference.predictor import MaskPredictor


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Source:
    """A video file, by its place and by its content, which is read once it is asked for."""

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


def made_with(predictor: MaskPredictor, checkpoint: str, threshold: float) -> dict[str, Any]:
    """The model and its settings, as segmentation.json has them; `checkpoint` is its name."""
    words = predictor.only_words
    return {
        "checkpoint": {"name": checkpoint, "sha256": predictor.digest},
        "encoders": dict(predictor.encoders),
        "threshold": threshold,
        **({"words": list(words)} if words is not None else {}),
        "without": [part._asdict() for part in predictor.missing],
    }
