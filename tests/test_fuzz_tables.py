"""Fuzzer benchmarks/fuzz_tables.py: a short run, and what counts as a failure."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from icf_avs.errors import UserError

pytestmark = pytest.mark.full

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
fuzz_media, fuzz_tables, mutations, untrusted_readers = map(
    importlib.import_module, ("fuzz_media", "fuzz_tables", "mutations", "untrusted_readers")
)
SEED, INPUTS = 1, 300  # another seed than the benchmark's default


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
    kinds = Counter()
    for number, (kind, why) in fuzz_tables.outcomes(table, SEED, range(INPUTS), tmp_path):
        assert kind != "failed", (number, why)
        kinds[kind] += 1
    assert kinds.total() == INPUTS and kinds["answered"] > INPUTS // 12 and kinds["refused"] > INPUTS // 3


def test_inputs_are_reproducible_and_differ_from_the_original(table):
    for number in range(40):
        reader, content = fuzz_tables.damaged_input(table, SEED, number)
        assert (reader, content) == fuzz_tables.damaged_input(table, SEED, number)
    changed = [fuzz_tables.damaged_input(table, SEED, number) for number in range(200)]
    assert sum(content in reader.originals for reader, content in changed) < 20


def memory_behind_a_line(folder):
    try:
        bytearray(3 << 30)
    except MemoryError as error:
        raise UserError("cannot be read") from error


def crash(folder):
    faulthandler.disable()  # enabled by pytest; an intended crash prints no dump
    os.abort()


def endless(folder):
    while True:
        pass


@pytest.mark.parametrize(
    ("harm", "said"),
    [(lambda _: 1 / 0, "ZeroDivisionError"), (lambda _: bytearray(3 << 30), "MemoryError"),
     (memory_behind_a_line, "MemoryError"), (endless, "more than 1 s"), (crash, "code -6"),
     (lambda _: Path("CANARY").touch(), "a pickle was run")],
)  # fmt: skip
def test_fuzzer_detects_failures_and_continues(harm, said, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_media, "SECONDS", 1)
    monkeypatch.setattr(fuzz_tables, "SECONDS", 1)
    sound = untrusted_readers.Reader("sound", "bytes", "x", (b"any",), lambda folder: None)
    harmful = untrusted_readers.Reader("harmful", "bytes", "x", (b"any",), harm)
    found = dict(fuzz_tables.outcomes([sound, harmful, sound], 0, range(3), tmp_path))
    assert [found[number][0] for number in range(3)] == ["answered", "failed", "answered"]
    assert said in found[1][1]


def test_mutations_include_malicious_pickles():
    pickles = untrusted_readers._pickles()
    found = [mutations.mutated("pickle", pickles, np.random.default_rng([SEED, number])) for number in range(200)]
    assert sum(b"touch CANARY" in content for content in found) > 3
