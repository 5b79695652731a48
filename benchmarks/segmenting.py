"""(c) `icf segment`, the whole process, and (g) its memory: by length of the video and masks a second, at 720p.

Seconds per second of video beside real time, and the same for the longest video beside the shortest: a ratio of 1 or
more says that time is linear. So with memory: what the longest takes beside what the shortest does. A process is run
once for each turn; the longest video has one turn, for it is ten minutes of the same work.
With `stamps` at all rates, and at one mask a second with `natural`, which needs its audio weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import Finished, finished
from benchmarks.table import Row
from benchmarks.turns import Machine, row
from benchmarks.videos import HEIGHT, LOOP, WIDTH, write_loop, write_video

MOST_MEMORY = 1200.0  # MB, that a process may take
ONE_TURN = 300  # seconds of video from which on one turn is enough


def segmenting(
    machine: Machine, lengths: Sequence[int] = (10, 60, 600), rates: Sequence[float] = (1, 5),
    size: tuple[int, int] = (WIDTH, HEIGHT), loop: int = LOOP,
) -> Iterator[Row]:  # fmt: skip
    """Rows segment-RATE-LENGTH against real time, ...-memory against the limit, and both against the shortest video."""
    yield from _segmenting(machine, [("stamps", rate) for rate in rates], lengths, size, loop)


def segmenting_natural(
    machine: Machine, lengths: Sequence[int] = (10, 60, 600), size: tuple[int, int] = (WIDTH, HEIGHT), loop: int = LOOP
) -> Iterator[Row]:
    """The same rows as segment-natural-..."""
    yield from _segmenting(machine, [("natural", 1)], lengths, size, loop)


def _segmenting(
    machine: Machine, asked: list[tuple[str, float]], lengths: Sequence[int], size: tuple[int, int], loop: int
) -> Iterator[Row]:
    """asked: checkpoints, each with its masks a second."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures = write_loop(place / "loop.mp4", *size, loop)
        videos = {length: write_video(pictures, place / f"{length}.mp4", length) for length in lengths}
        for checkpoint, rate in asked:
            runs = _runs(machine, videos, checkpoint, rate)
            first = runs[lengths[0]]
            for length in lengths:
                name, found = f"{rate:g}fps-{length}s", runs[length]
                name = name if checkpoint == "stamps" else f"{checkpoint}-{name}"
                paid = [run.wall / length for run in found]
                peaks = [run.peak for run in found]
                yield row(f"segment-{name}", paid, [1.0] * len(paid), "real time", machine, "s/s of video")
                yield row(f"segment-{name}-memory", peaks, [MOST_MEMORY] * len(peaks), "limit", machine, "MB")
                if length != lengths[0]:
                    # From the second length on: what more video costs, without the start of the process.
                    beside = [run.cpu / lengths[0] for run in first[: len(found)]]
                    work = [run.cpu / length for run in found]
                    short = f"{lengths[0]} s of video"
                    yield row(f"segment-{name}-compute", work, beside, short, machine, "CPU s/s of video")
                    yield row(
                        f"segment-{name}-memory", peaks, [run.peak for run in first[: len(found)]], short, machine, "MB"
                    )


def _runs(machine: Machine, videos: dict[int, Path], checkpoint: str, rate: float) -> dict[int, list[Finished]]:
    """The lengths take turns, long ones only once; before, the shortest warms the disk's cache and does not count."""
    runs: dict[int, list[Finished]] = {length: [] for length in videos}
    for turn in range(machine.turns + 1):
        for length, path in videos.items():
            if (turn > 1 and length >= ONE_TURN) or (not turn and length != min(videos)):
                continue
            words = ["--out", str(path.parent / "out"), "--fps", f"{rate:g}", "--checkpoint", checkpoint]
            run = finished(machine, "-m", "icf_avs", "segment", str(path), *words)
            if turn:
                runs[length].append(run)
    return runs
