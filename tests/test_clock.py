"""Joined, damaged or truncated files and jumping time stamps: frames and audio stay in sync, nothing is lost."""

from __future__ import annotations

import importlib
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from clip_maker import make_clip, number_in, tone

from icf_avs.errors import UserError
from icf_avs.media.container import joined_parts
from icf_avs.media.video_reader import probe, read_frames

pytestmark = pytest.mark.full

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
known_clips, known_kinds, known_media = map(importlib.import_module, ("known_clips", "known_kinds", "known_media"))
Known, content, make, find_errors = known_clips.Known, known_clips.content, known_clips.make, known_media.find_errors


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", known_kinds.KINDS)
def test_every_second_has_its_frame_and_audio(tmp_path, kind, number):
    """Files of benchmarks/known_media.py, with other seeds than it has."""
    path, known = known_kinds.KINDS[kind](tmp_path, np.random.default_rng([5, number]))
    assert not find_errors(path, known, tmp_path / "out")
    if kind == "followed":
        assert any("hold neither video nor sound" in line for line in probe(path).repaired.lines())


@pytest.mark.parametrize(("end", "movie"), known_kinds.JOINED)
def test_joined_files_are_segmented_whole(tmp_path, end, movie):
    """Three files in every container; FFmpeg alone stops at the second header of most."""
    every = content(rng(), 2), content(rng(8), 3), content(rng(9), 1)
    parts = [make(tmp_path / f"{n}.{end}", seconds, movie=movie) for n, seconds in enumerate(every)]
    path = tmp_path / f"it's 3:joined.{end}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert not find_errors(path, Known(tuple(chain(*every)), repaired=True))
    info = probe(path)
    assert info.duration == pytest.approx(6, abs=0.15)
    found = info.repaired.document()
    assert found.pop("joined_files", 3) == 3
    assert found == {"clock_jumps": [pytest.approx(2, abs=0.1), pytest.approx(5, abs=0.1)]}


def test_joined_files_with_b_frames_rotation_and_other_sizes(tmp_path):
    """H.264 with all parameters in the header of each part."""
    sizes, path = [(160, 120), (320, 240)], tmp_path / "joined.mkv"
    options = {"bf": "3", "g": "250"}
    for end in ("mkv", "mp4"):
        clips = [make_clip(tmp_path / f"{w}.{end}", sound=tone(2), size=(w, h), options=options) for w, h in sizes]
        path = tmp_path / f"joined.{end}"
        path.write_bytes(b"".join(clip.read_bytes() for clip in clips))
        shown = [number_in(frame) for _, frame in read_frames(path, [0.02, 1.02, 1.9])]
        assert shown == [0, 25, 47] and probe(path).duration == pytest.approx(4, abs=0.1)
    turned = make_clip(tmp_path / "turned.mp4", sound=tone(2), rotation=90)
    path.write_bytes(turned.read_bytes() * 2)
    assert (probe(path).width, probe(path).height, probe(path).parts[0][1]) == (120, 160, turned.stat().st_size)


def test_a_truncated_part_is_refused(tmp_path):
    clips = [make_clip(tmp_path / f"{n}.flv", sound=tone(2), codec="flv1").read_bytes() for n in range(2)]
    path = tmp_path / "joined.flv"
    path.write_bytes(clips[0] + clips[1][:-8000])
    with pytest.raises(UserError, match=r"joined.flv: cut short, 1\.\d+ of 2\.\d+ s are there"):
        probe(path)


def test_unread_bytes_at_the_end_are_reported(tmp_path):
    """As when the demuxer stops at damage; an index does not count."""
    path = make_clip(tmp_path / "a.mkv", sound=tone(2))
    assert not probe(path).repaired.unread
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(size))
    assert size <= probe(path).repaired.document()["unread_bytes"] < 1.1 * size


def test_headers_at_block_borders_are_found(tmp_path):
    """A file is read in blocks of 16 MiB."""
    whole = make(tmp_path / "a.flv", content(rng(), 1)).read_bytes()
    size, path = len(whole), tmp_path / "joined.flv"
    for begin in (2**24 - size, 2**24 - 20, 2**24 - 1, 2**24, 2**24 + 5):
        path.write_bytes(whole + bytes(begin - size) + whole * 2)
        ends = (begin, begin + size, begin + 2 * size)
        assert joined_parts(path, ends[-1]) == (((0, begin), ends[:2], ends[1:]), ())


@pytest.mark.parametrize("kinds", [["video"], ["audio"], ["video", "audio"]])
@pytest.mark.parametrize(("by", "back"), [(-50_000, 99), (20, 2), (3600, 99)])
def test_jumping_time_stamps_of_one_or_both_streams(tmp_path, kinds, by, back):
    """To another clock from second 1 on, and in one case back again a second later."""
    seconds = content(rng(), 3)
    data = bytearray(make(tmp_path / "whole.ts", seconds).read_bytes())
    for kind in kinds:
        known_kinds.restamp(data, known_kinds.PIDS[kind], lambda time: time + by if 1 <= time - 0.1 < back else time)
    (tmp_path / "jumps.ts").write_bytes(data)
    assert not find_errors(tmp_path / "jumps.ts", Known(tuple(seconds), repaired=True))


def test_first_part_with_more_audio_than_video(tmp_path):
    """The second part begins where the audio of the first ends; until then the last frame stays, as in players."""
    first, second = content(rng(), 3), content(rng(8), 2)
    parts = make(tmp_path / "0.ts", first, video_seconds=1), make(tmp_path / "1.ts", second)
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    shown = [(first[0][0], tone) for _, tone in first]
    assert not find_errors(path, Known((*shown, *second), repaired=True))
