"""(c) Time of `icf segment` as a whole process, and (g) its memory, by video length and masks per second, at 720p.

Every frame of the video has a mask, except in rows with "empty". Time per second of video is compared with real time,
with decoding and encoding alone, and for longer videos with the shortest: a ratio of 1 or more means linear time.
Memory of longer videos is compared in the same way. A process is run once per turn; ten minutes have one turn. `stamps`
is run at all rates, and `natural`, which needs its audio weights, at one mask per second.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import Finished, finished
from benchmarks.table import Row
from benchmarks.turns import Machine, row
from benchmarks.videos import HEIGHT, LOOP, WIDTH, pattern_loop, scene_loop, write_video
from icf_avs.output.video_writer import _ENCODER

MOST_MEMORY = 1100.0  # MB per process
ONE_TURN = 300  # seconds of video from which one turn is enough
LEAST_MASKS = 0.9  # share of the scene's frames in which something must be segmented


def segmenting(
    machine: Machine, lengths: Sequence[int] = (10, 60, 600), rates: Sequence[float] = (1, 5),
    size: tuple[int, int] = (WIDTH, HEIGHT), loop: int = LOOP,
) -> Iterator[Row]:  # fmt: skip
    """Yield rows segment-RATE-LENGTH against real time, ...-memory against the limit, and both against the shortest
    video; segment-empty-... for the longest video at the first rate.
    """
    yield from _segmenting(machine, [("stamps", rate) for rate in rates], lengths, size, loop)


def segmenting_natural(
    machine: Machine, lengths: Sequence[int] = (10, 60, 600), size: tuple[int, int] = (WIDTH, HEIGHT), loop: int = LOOP
) -> Iterator[Row]:
    """Yield the same rows as segment-natural-..."""
    yield from _segmenting(machine, [("natural", 1)], lengths, size, loop)


def _segmenting(
    machine: Machine, asked: list[tuple[str, float]], lengths: Sequence[int], size: tuple[int, int], loop: int
) -> Iterator[Row]:
    """asked: pairs of checkpoint and masks per second."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene = scene_loop(place / "scene.mp4", *size, loop)
        videos = {length: write_video(scene, place / f"{length}.mp4", length) for length in lengths}
        alone = _transcoded(machine, videos)
        for checkpoint, rate in asked:
            runs = _runs(machine, videos, checkpoint, rate)
            for run in (run for length in lengths for run in runs[length]):
                masks, found = map(int, re.findall(r"(\d+) masks? .*?(\d+) with something", run.printed)[0])
                assert found >= LEAST_MASKS * masks, run.printed
            yield from _rows(machine, _label(checkpoint, f"{rate:g}fps"), runs, alone)
        checkpoint, rate = asked[0]
        longest = lengths[-1]
        video = write_video(pattern_loop(place / "pattern.mp4", *size, loop), place / "empty.mp4", longest)
        run = _run(machine, video, checkpoint, rate)
        name = f"segment-{_label(checkpoint, f'empty-{rate:g}fps')}-{longest}s"
        yield row(name, [run.wall / longest], [1.0], "real time", machine, "s/s of video")
        yield row(f"{name}-memory", [run.peak], [MOST_MEMORY], "limit", machine, "MB")


def _label(checkpoint: str, name: str) -> str:
    return name if checkpoint == "stamps" else f"{checkpoint}-{name}"


def _rows(machine: Machine, label: str, runs: dict[int, list[Finished]], alone: dict[int, Finished]) -> Iterator[Row]:
    shortest, first = next(iter(runs.items()))
    for length, found in runs.items():
        name, short = f"segment-{label}-{length}s", f"{shortest} s of video"
        peaks = [run.peak for run in found]
        yield row(name, [run.wall / length for run in found], [1.0] * len(found), "real time", machine, "s/s of video")
        first_turn, least = [found[0].wall / length], [alone[length].wall / length]
        yield row(name, first_turn, least, "decoding and encoding alone", machine, "s/s of video")
        yield row(f"{name}-memory", peaks, [MOST_MEMORY] * len(peaks), "limit", machine, "MB")
        if length != shortest:
            # From the second length on: cost of additional video, without the start of the process.
            beside, work = [run.cpu / shortest for run in first], [run.cpu / length for run in found]
            yield row(f"{name}-compute", work, beside[: len(work)], short, machine, "CPU s/s of video")
            yield row(f"{name}-memory", peaks, [run.peak for run in first[: len(found)]], short, machine, "MB")
            walls, busy = [run.wall / length for run in found], [run.cpu / length for run in found]
            yield row(f"{name}-in-threads", walls, busy, "one after the other", machine, "s/s of video")


def _runs(machine: Machine, videos: dict[int, Path], checkpoint: str, rate: float) -> dict[int, list[Finished]]:
    """Run the lengths in turns, long ones only once. A first uncounted run of the shortest warms the disk cache."""
    _run(machine, videos[min(videos)], checkpoint, rate)
    runs: dict[int, list[Finished]] = {length: [] for length in videos}
    for turn in range(machine.turns):
        for length, path in videos.items():
            if not turn or length < ONE_TURN:
                runs[length].append(_run(machine, path, checkpoint, rate))
    return runs


def _transcoded(machine: Machine, videos: dict[int, Path]) -> dict[int, Finished]:
    """Decode and encode each video without a model."""
    options = json.dumps(_ENCODER)
    return {
        length: finished(machine, "-m", "benchmarks.transcoding", str(path), str(path.parent / "alone.mp4"), options)
        for length, path in videos.items()
    }


def _run(machine: Machine, path: Path, checkpoint: str, rate: float) -> Finished:
    words = "--out", str(path.parent / "out"), "--fps", f"{rate:g}", "--checkpoint", checkpoint
    return finished(machine, "-m", "icf_avs", "segment", str(path), *words)
