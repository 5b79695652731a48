"""Fuzzer benchmarks/fuzz_media.py: a short run, and what counts as a failure."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from icf_avs.errors import UserError

pytestmark = pytest.mark.full

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
fuzz_media, media_seeds, reliability = map(importlib.import_module, ("fuzz_media", "media_seeds", "reliability"))


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


def test_fuzzer_detects_hangs_crashes_and_tracebacks(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_media, "SECONDS", 1)
    monkeypatch.setattr(fuzz_media, "WALL_CLOCK_FACTOR", 6)
    (tmp_path / "seeds").mkdir()
    good = next(path.read_bytes() for path in media_seeds.write_seeds(tmp_path / "seeds") if path.name == "a.avi")

    def harmed(model, path, out):
        harms.get(path.read_bytes(), int)()
        return real(model, path, out)

    def crash():
        faulthandler.disable()  # enabled by pytest; an intended crash prints no dump
        os.abort()

    harms = {b"error": lambda: 1 / 0, b"hang": lambda: time.sleep(9), b"crash": crash,
             b"memory": lambda: bytearray(3 << 30)}  # fmt: skip
    real = fuzz_media.segment_video
    monkeypatch.setattr(fuzz_media, "segment_video", harmed)
    worker = fuzz_media.Worker(tmp_path)
    for data, said in [(b"error", "ZeroDivisionError"), (b"hang", "more than 1 s"), (b"crash", "code -6"),
                       (b"memory", "MemoryError")]:  # fmt: skip
        kind, why = worker.outcome(data)
        assert kind == "failed" and said in why
        assert worker.outcome(good) == ("answered", "")  # a failure does not affect the next file
    worker.close()
    assert os.listdir(tmp_path) == ["seeds"]


def test_reliability_table_keeps_the_rows_of_other_checks(tmp_path, monkeypatch):
    table = tmp_path / "new" / "reliability.csv"
    monkeypatch.setattr(sys, "argv", ["benchmarks/fuzz_media.py", "--files", "10"])
    for check, failed, seed in (("b", 1, 0), ("a", 1, 0), ("b", 0, 0), ("b", 2, 1), ("c", 0, "")):
        reliability.save_row(table, check, 10, failed, seed)
    heading, *rows = (line.split(",") for line in table.read_text().splitlines())
    assert heading == ["check", "tried", "failed", "seed", "command", "revision"]
    assert [row[:5] for row in rows] == [
        [check, "10", failed, seed, "python benchmarks/fuzz_media.py --files 10"]
        for check, failed, seed in (("a", "1", "0"), ("b", "0", "0"), ("b", "2", "1"), ("c", "0", ""))
    ]
    table.write_text("other,table\n")
    with pytest.raises(UserError, match="not a table of check,tried"):
        reliability.save_row(table, "a", 1, 0)
