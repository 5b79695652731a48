"""Joined, damaged and truncated files: frames and audio stay in sync, nothing is lost, errors are one line.

With the files of known content and the fuzzers of benchmarks/, in a short run.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from clip_maker import make_clip, tone

from icf_avs.errors import UserError
from icf_avs.media.container import joined_parts
from icf_avs.media.video_reader import probe

pytestmark = pytest.mark.full

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
known_clips, known_kinds, known_media = map(importlib.import_module, ("known_clips", "known_kinds", "known_media"))
fuzz_media, fuzz_tables, media_seeds, untrusted_readers = map(
    importlib.import_module, ("fuzz_media", "fuzz_tables", "media_seeds", "untrusted_readers")
)
Known, find_errors = known_clips.Known, known_media.find_errors


def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def known_parts(folder, end, lengths, movie=None, **first):
    """Clips of so many seconds, and their contents. first: settings of the first."""
    every = [known_clips.content(np.random.default_rng(7 + n), length) for n, length in enumerate(lengths)]
    return every, [
        known_clips.make(folder / f"{n}.{end}", seconds, movie=movie, **({} if n else first))
        for n, seconds in enumerate(every)
    ]


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
    every, parts = known_parts(tmp_path, end, (2, 3, 1), movie)
    path = joined(tmp_path / f"it's 3:joined.{end}", *parts)
    assert not find_errors(path, Known(tuple(chain(*every)), repaired=True))
    info = probe(path)
    assert info.duration == pytest.approx(6, abs=0.15)
    found = info.repaired.document()
    assert found.pop("joined_files", 3) == 3
    assert found == {"clock_jumps": [pytest.approx(2, abs=0.1), pytest.approx(5, abs=0.1)]}


def test_a_truncated_part_is_refused(tmp_path):
    clip = make_clip(tmp_path / "a.flv", sound=tone(2), codec="flv1")
    clip.write_bytes(clip.read_bytes() + clip.read_bytes()[:-8000])
    with pytest.raises(UserError, match=r"a.flv: cut short, 1\.\d+ of 2\.\d+ s are there"):
        probe(clip)


def test_headers_at_block_borders_are_found(tmp_path):
    """A file is read in blocks of 16 MiB."""
    _, (part,) = known_parts(tmp_path, "flv", [1])
    whole, path = part.read_bytes(), tmp_path / "joined.flv"
    size = len(whole)
    for begin in (2**24 - size, 2**24 - 20, 2**24 - 1, 2**24, 2**24 + 5):
        path.write_bytes(whole + bytes(begin - size) + whole * 2)
        ends = (begin, begin + size, begin + 2 * size)
        assert joined_parts(path, ends[-1]) == (((0, begin), ends[:2], ends[1:]), ())


def test_first_part_with_more_audio_than_video(tmp_path):
    """The second part begins where the audio of the first ends; until then the last frame stays, as in players."""
    (first, second), parts = known_parts(tmp_path, "ts", (3, 2), video_seconds=1)
    shown = [(first[0][0], tone) for _, tone in first]
    assert not find_errors(joined(tmp_path / "joined.ts", *parts), Known((*shown, *second), repaired=True))


def test_damaged_files_end_in_masks_or_one_line(tmp_path, monkeypatch):
    """With another seed than the benchmark's default."""
    originals = [path.read_bytes() for path in media_seeds.write_seeds(tmp_path)]
    worker, kinds = fuzz_media.Worker(tmp_path), Counter()
    monkeypatch.setattr(fuzz_media, "FILES_PER_PROCESS", 10)
    for number in range(24):
        kind, why = worker.outcome(fuzz_media.damaged(originals, np.random.default_rng([9, number])))
        assert kind != "failed", (number, why)
        kinds[kind] += 1
    worker.close()
    assert kinds["answered"] > 3 and kinds["refused"] > 3


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icf_avs.checkpoint.serialization.build_visual", None)  # which `readers` replaces
        yield untrusted_readers.readers(tmp_path_factory.mktemp("seeds"))


def test_every_reader_accepts_its_originals(table, tmp_path):
    for reader in table:
        for content in reader.originals:
            assert fuzz_tables.read(reader, content, tmp_path) == ("answered", ""), reader.name
    assert os.listdir(tmp_path) == []


def test_damaged_inputs_end_in_an_answer_or_one_line(table, tmp_path):
    """With another seed than the benchmark's default."""
    kinds = Counter()
    for number, (kind, why) in fuzz_tables.outcomes(table, 1, range(300), tmp_path):
        assert kind != "failed", (number, why)
        kinds[kind] += 1
    assert kinds["answered"] > 25 and kinds["refused"] > 100


HARMS = {  # what the fuzzer says: the failure
    "ZeroDivisionError": lambda _: 1 / 0,
    "MemoryError": lambda _: bytearray(3 << 30),
    "more than 1 s": lambda _: sum(iter(int, 1)),  # endless
    "code -9": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "a pickle was run": lambda _: Path("CANARY").touch(),
}


@pytest.mark.parametrize("said", HARMS)
def test_fuzzer_detects_failures_and_continues(said, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_media, "SECONDS", 1)
    monkeypatch.setattr(fuzz_tables, "SECONDS", 1)
    sound = untrusted_readers.Reader("sound", "bytes", "x", (b"any",), lambda folder: None)
    harmful = untrusted_readers.Reader("harmful", "bytes", "x", (b"any",), HARMS[said])
    found = dict(fuzz_tables.outcomes([sound, harmful, sound], 0, range(3), tmp_path))
    assert [found[number][0] for number in range(3)] == ["answered", "failed", "answered"]
    assert said in found[1][1]
