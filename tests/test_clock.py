"""Time stamps that begin anew or jump: pictures and sound on one clock, in step, and nothing of the file lost."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from icf_avs.data.media import probe

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
known_clips, known_kinds, known_media = map(importlib.import_module, ("known_clips", "known_kinds", "known_media"))
Known, content, make, wrong = known_clips.Known, known_clips.content, known_clips.make, known_media.wrong


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("end", ["ts", "m2ts", "mpg", "vob", "mkv", "webm"])
def test_joined_files_are_segmented_whole(tmp_path, end):
    first, second = content(rng(), 2), content(np.random.default_rng(8), 3)
    parts = [make(tmp_path / f"{n}.{end}", seconds).read_bytes() for n, seconds in enumerate((first, second))]
    path = tmp_path / f"joined.{end}"
    path.write_bytes(b"".join(parts))
    assert not wrong(path, Known((*first, *second), repaired=True), tmp_path / "out" if end == "ts" else None)
    info = probe(path)
    assert info.duration == pytest.approx(5, abs=0.1)
    assert info.repaired.document()["clock_jumps"] == [pytest.approx(2, abs=0.1)]


@pytest.mark.parametrize("kinds", [["video"], ["audio"], ["video", "audio"]])
@pytest.mark.parametrize(("by", "back"), [(-50_000, 99), (20, 2), (3600, 99)])
def test_time_stamps_of_one_stream_or_both_jump(tmp_path, kinds, by, back):
    """To another clock from second 1 on, and in one case back again a second later."""
    seconds = content(rng(), 3)
    data = bytearray(make(tmp_path / "whole.ts", seconds).read_bytes())
    for kind in kinds:
        known_kinds.restamp(data, known_kinds.PIDS[kind], lambda time: time + by if 1 <= time - 0.1 < back else time)
    path = tmp_path / "jumps.ts"
    path.write_bytes(data)
    assert not wrong(path, Known(tuple(seconds), repaired=True))


@pytest.mark.parametrize("kind", ["wrapping", "gap"])
@pytest.mark.parametrize("number", range(2))
def test_counters_that_run_over_and_gaps_of_hours(tmp_path, kind, number):
    path, known = known_kinds.KINDS[kind](tmp_path, np.random.default_rng([3, number]))
    assert not wrong(path, known)


def test_sound_of_the_first_part_that_outlasts_its_pictures(tmp_path):
    """The second recording begins where the sound of the first ends: its pictures stay, as players have it."""
    first, second = content(rng(), 3), content(np.random.default_rng(8), 2)
    parts = make(tmp_path / "0.ts", first, pictures=1), make(tmp_path / "1.ts", second)
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    shown = [(first[0][0], tone) for _, tone in first]
    assert not wrong(path, Known((*shown, *second), repaired=True))
