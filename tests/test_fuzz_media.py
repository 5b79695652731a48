"""The fuzzer of benchmarks/fuzz_media.py: a short run of it, and what it calls a failure."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
fuzz_media, media_seeds = (importlib.import_module(name) for name in ("fuzz_media", "media_seeds"))


def test_damaged_files_end_in_masks_or_one_line(tmp_path):
    """A short run of benchmarks/fuzz_media.py, of other files than its usual seed has."""
    originals = [path.read_bytes() for path in media_seeds.write_seeds(tmp_path)]
    kinds = Counter()
    for number in range(24):
        kind, why = fuzz_media.outcome(fuzz_media.damaged(originals, np.random.default_rng([1, number])), tmp_path)
        assert kind != "failed", (number, why)
        kinds[kind] += 1
    assert kinds["answered"] > 3 and kinds["refused"] > 3


def test_fuzzer_sees_a_hang_a_crash_and_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_media, "SECONDS", 1)
    for harm, said in [(lambda *_: 1 / 0, "ZeroDivisionError"), (lambda *_: time.sleep(9), "more than 1 s"),
                       (lambda *_: os.abort(), "code -6"), (lambda *_: bytearray(3 << 30), "MemoryError")]:  # fmt: skip
        monkeypatch.setattr(fuzz_media, "segment_video", harm)
        kind, why = fuzz_media.outcome(b"any", tmp_path)
        assert kind == "failed" and said in why
    assert os.listdir(tmp_path) == []


def test_reliability_table_keeps_the_rows_of_other_checks(tmp_path):
    table = tmp_path / "reliability.csv"
    row = dict(zip(fuzz_media.COLUMNS, ("a", "10", "1", "0", "python", "abc"), strict=True))
    for new in (row, row | {"check": "b"}, row | {"failed": "0"}):
        fuzz_media.save_row(table, new)
    assert table.read_text() == "check,tried,failed,seed,command,revision\nb,10,1,0,python,abc\na,10,0,0,python,abc\n"
