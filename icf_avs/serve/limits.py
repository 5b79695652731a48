"""Limits of the page for one visitor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.media.video_reader import MediaInfo, probe

MB = 1_000_000
_STORED = 40  # capacity of the folder for uploads and results, in uploads of the largest size


@dataclass(frozen=True)
class Limits:
    """Limits on an upload and on its processing."""

    max_mb: int = 100
    max_seconds: int = 60
    work_seconds: float = 600.0  # bounds large frames too: an 8K frame takes as long as many small ones

    @property
    def upload_bytes(self) -> int:
        return self.max_mb * MB

    @property
    def stored_bytes(self) -> int:
        return _STORED * self.upload_bytes

    def checked(self, path: Path) -> MediaInfo:
        """Return the media information of the video. Raises UserError if it is too large, too long, or unreadable."""
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
        """Wrap `progress` so that it raises UserError once more than `work_seconds` have passed from now."""
        end = time.monotonic() + self.work_seconds

        def report(done: int, total: int) -> None:
            if time.monotonic() > end:
                raise UserError(
                    f"{path}: took longer than {self.work_seconds:.0f} s; give a smaller or a shorter video"
                )
            progress(done, total)

        return report
