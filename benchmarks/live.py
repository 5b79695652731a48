"""`icf live` as a whole process on 720p video in real time: the longest delay from a frame to its mask, and memory."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import finished
from benchmarks.segmenting import MOST_MEMORY
from benchmarks.table import Row
from benchmarks.turns import Machine, row
from benchmarks.videos import HEIGHT, LOOP, WIDTH, scene_loop, write_video

MOST = {"stamps": 1.5, "natural": 3.0}  # seconds


def live(
    machine: Machine, lengths: Sequence[int] = (60, 600), size: tuple[int, int] = (WIDTH, HEIGHT), loop: int = LOOP
) -> Iterator[Row]:
    """Yield rows live-CHECKPOINT-LENGTH-delay and ...-memory against limits, and memory against the shortest video."""
    with tempfile.TemporaryDirectory() as folder:
        scene = scene_loop(Path(folder, "scene.mp4"), *size, loop)
        for checkpoint, most in MOST.items():
            peaks: list[float] = []
            for length in lengths:
                path = write_video(scene, Path(folder, f"{length}.mp4"), length)
                run = finished(machine, "-m", "icf_avs", "live", str(path), "--checkpoint", checkpoint)
                delays = [float(found) for found in re.findall(r"after (\d+\.\d+) s\)", run.printed)]
                assert len(delays) == length
                peaks.append(run.peak)
                name = f"live-{checkpoint}-{length}s"
                yield row(f"{name}-delay", [max(delays)], [most], "limit", machine, "s")
                yield row(f"{name}-memory", [run.peak], [MOST_MEMORY], "limit", machine, "MB")
                if len(peaks) > 1:
                    yield row(f"{name}-memory", [run.peak], peaks[:1], f"{lengths[0]} s of video", machine, "MB")
