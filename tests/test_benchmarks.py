"""Benchmarks run at a tiny size and write the expected columns; the reference network equals TPAVI."""

from __future__ import annotations

import pytest
import torch
from tagger_weights import published_weights
from torch import nn

from benchmarks import __main__ as command
from benchmarks import models, optimisations, processes, segmenting, spectrograms, table, training, turns
from benchmarks.data import decoding, loading
from benchmarks.inference import inference
from benchmarks.live import live
from benchmarks.lower_precision import lower_precision

pytestmark = pytest.mark.full

ONCE = turns.Machine(turns=1, threads=1)
SMALL = models.Encoder("resnet-50", depths=(1, 1, 1, 1))


def test_tpavi_as_published_equals_ours():
    given = models.batch(frames=2, size=64)
    ours, theirs = (models.build(network, SMALL) for network in ("tpavi", models.PUBLISHED))
    for interact in ours.network.interact:
        nn.init.normal_(interact.batch_norm.weight)  # initialised to zero: audio would have no effect
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        found, expected = (model(given.frames, given.waveforms, given.valid).logits for model in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert all(type(module) is models.PairwiseInteraction for module in theirs.network.interact)


BENCHMARKS = {
    "inference": lambda: inference(ONCE, [SMALL], size=64, own_size=64),
    "lower precision": lambda: lower_precision(ONCE, [SMALL], clips=1, size=64, side=64),
    "training": lambda: training.training(ONCE, [SMALL]),
    "optimisations": lambda: optimisations.optimisations(ONCE, SMALL, seconds_of_video=1, side=64),
    "segmenting": lambda: segmenting.segmenting(ONCE, lengths=(1, 2), rates=(1,), size=(64, 48), loop=1),
    "decoding": lambda: decoding(ONCE, rates=(1,), size=(64, 48), loop=1),
    "live": lambda: live(ONCE, lengths=(1, 2), size=(64, 48), loop=1),
    "loading": lambda: loading(ONCE, clips=2, passes=2, workers=(1,)),
    "log-mel": lambda: spectrograms.spectrograms(ONCE, count=2),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_at_a_tiny_size(name: str, monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    monkeypatch.setattr(torch, "compile", lambda program: program)  # takes a compiler and a minute
    monkeypatch.setattr(segmenting, "ONE_TURN", 1)  # each video once
    monkeypatch.setattr(segmenting, "LEAST_MASKS", 0)  # a video this small shows little
    for module in (training, optimisations):
        monkeypatch.setattr(module, "finished", lambda *_: processes.Finished(60, 100, 3000, "3.0\n"))
    threads, rows = torch.get_num_threads(), [*BENCHMARKS[name]()]
    torch.set_num_threads(threads)
    assert rows and all(float(row.reference) > 0 and row.unit and row.threads == "1" and row.revision for row in rows)


def test_a_run_replaces_only_its_rows(tmp_path):
    out, threads = tmp_path / "bench.csv", torch.get_num_threads()
    other = table.Row("other", "1", "2", "something", "2", "s", "cpu", "2", "abc")
    old = table.Row("f-curve-hard", "1", "2", "direct formula", "2", "s", turns.Machine().name, "2", "abc")
    table.save_rows(out, [other, old])
    command.main(["--only", "f-curve", "--out", str(out), "--threads", "1"])
    torch.set_num_threads(threads)
    rows = table.read_rows(out)
    assert other in rows and old not in rows and len(rows) == 6
