"""How much the page takes from one visitor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.media.video_reader import MediaInfo, probe

MB = 1_000_000
_STORED = 40  # uploads of the largest size, or so much of results, that the folder holds before it takes no more


@dataclass(frozen=True)
class Limits:
    """Of an upload, and of the work on it."""

    max_mb: int = 100
    max_seconds: int = 60
    work_seconds: float = 600.0  # a frame of 8K takes as long as many small ones

    @property
    def upload_bytes(self) -> int:
        return self.max_mb * MB

    @property
    def stored_bytes(self) -> int:
        return _STORED * self.upload_bytes

    def checked(self, path: Path) -> MediaInfo:
        """What is in the video. Raises UserError if it is too large, too long, or not a video that can be read."""
        if path.is_file() and path.stat().st_size > self.upload_bytes:
            raise UserError(f"{path}: has {path.stat().st_size / MB:.1f} MB; this page takes {self.max_mb} MB at most")
        info = probe(path)
        if info.duration > self.max_seconds + 0.5:
            raise UserError(
                f"{path}: lasts {info.duration:.0f} s; this page takes {self.max_seconds} s at most. Cut it, or use "
                "`icf segment`, which takes any length"
            )
        return info

    def timed(self, progress: Callable[[int, int], None], path: Path) -> Callable[[int, int], None]:
        """`progress`, which ends the work with a UserError when it has taken too long from now on."""
        end = time.monotonic() + self.work_seconds

        def report(done: int, total: int) -> None:
            if time.monotonic() > end:
                raise UserError(
                    f"{path}: took longer than {self.work_seconds:.0f} s; give a smaller or a shorter video"
                )
            progress(done, total)

        return report
