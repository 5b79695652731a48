"""Benchmarks run at a tiny size and write the expected columns; the reference network equals TPAVI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tagger_weights import published_weights
from torch import nn

from benchmarks import __main__ as command
from benchmarks import models, optimisations, processes, scores, segmenting, spectrograms, table, training, turns
from benchmarks.data import decoding, loading
from benchmarks.inference import inference
from benchmarks.live import live
from benchmarks.lower_precision import lower_precision
from icf_avs.evaluation.metrics import f_curves
from icf_avs.media.vggish_frontend import log_mel

pytestmark = pytest.mark.full

ONCE = turns.Machine(turns=1, threads=1)
SMALL = models.Encoder("resnet-50", depths=(1, 1, 1, 1))


def named(rows) -> dict[tuple[str, str], table.Row]:
    """Rows by benchmark and reference."""
    found = {(row.benchmark, row.reference_name): row for row in rows}
    assert all(float(row.reference) > 0 and row.unit and row.threads == "1" and row.revision for row in found.values())
    return found


@pytest.mark.parametrize(("encoder", "millions"), [(models.RESNET, 91.40), (models.PVT, 101.32)])
def test_tpavi_has_the_published_number_of_parameters(encoder: models.Encoder, millions: float):
    """VGGish not counted. The public ResNet-50 contains stages 3 and 4 twice and uses them once."""
    network = models.build(models.PUBLISHED, encoder, train=True).network
    unused = [] if encoder is models.PVT else network.visual.network.encoder.stages[2:]
    count = [sum(p.numel() for p in part.parameters()) for part in (network, *unused)]
    count.append(-sum(p.numel() for p in network.audio.parameters()))
    assert sum(count) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["resnet-50", "pvt-v2-b5"])
def test_tpavi_as_published_equals_ours(name: str):
    encoder, given = models.Encoder(name, depths=(1, 1, 1, 1)), models.batch(frames=2, size=64)
    ours, theirs = (models.build(network, encoder) for network in ("tpavi", models.PUBLISHED))
    for interact in ours.network.interact:
        nn.init.normal_(interact.batch_norm.weight)  # initialised to zero: audio would have no effect
    theirs.load_state_dict(ours.state_dict())
    with torch.inference_mode():
        found, expected = (model(given.frames, given.waveforms, given.valid).logits for model in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert all(type(module) is models.PairwiseInteraction for module in theirs.network.interact)


def test_inference_at_a_tiny_size(monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    found = named(inference(ONCE, [SMALL], size=64, own_size=64))
    names = {f"resnet-50-{network}" for network in models.NETWORKS[1:]} | {"guided-lite0", "open-vocabulary"}
    assert {name for name, _ in found} >= {f"inference-{name}" for name in names}
    whole = found["inference-resnet-50-query-light", models.PUBLISHED]
    rest = found["inference-resnet-50-query-light-overhead", "encoder alone"]
    assert float(rest.ours) == pytest.approx(float(whole.ours) - float(rest.reference), rel=0.02)


OTHERS = {
    "lower precision": lambda: lower_precision(ONCE, [SMALL], clips=1, size=64, side=64),
    "training": lambda: training.training(ONCE, [SMALL]),
    "optimisations": lambda: optimisations.optimisations(ONCE, SMALL, seconds_of_video=1, side=64),
    "segmenting": lambda: segmenting.segmenting(ONCE, lengths=(1, 2), rates=(1,), size=(64, 48), loop=1),
    "decoding": lambda: decoding(ONCE, rates=(1,), size=(64, 48), loop=1),
    "live": lambda: live(ONCE, lengths=(1, 2), size=(64, 48), loop=1),
    "loading": lambda: loading(ONCE, clips=2, passes=2, workers=(1,)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_benchmarks_at_a_tiny_size(name: str, monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    monkeypatch.setattr(torch, "compile", lambda program: program)  # takes a compiler and a minute
    monkeypatch.setattr(segmenting, "ONE_TURN", 1)  # each video once
    monkeypatch.setattr(segmenting, "LEAST_MASKS", 0)  # a video this small shows little
    for module in (training, optimisations):
        monkeypatch.setattr(module, "finished", lambda *_: processes.Finished(60, 100, 3000, "3.0\n"))
    threads = torch.get_num_threads()
    assert named(OTHERS[name]())
    torch.set_num_threads(threads)


def test_f_by_formula_equals_f_by_histogram():
    for p, truth in scores.inputs().values():
        expected = scores.direct(p[:2], truth[:2])
        torch.testing.assert_close(f_curves(p[:2], truth[:2]).float(), expected, atol=1e-5, rtol=0)


def test_log_mel_by_numpy_equals_ours(capsys):
    waves = np.random.default_rng(1).normal(0, 0.1, (2, 15_600)).astype(np.float32)
    window = np.hanning(401)[:-1].astype(np.float32)
    mine = log_mel(torch.from_numpy(waves)).numpy()
    np.testing.assert_allclose(spectrograms.by_numpy(waves, spectrograms.filters(), window), mine, atol=1e-3)
    assert ("log-mel", "NumPy") in named(spectrograms.spectrograms(ONCE, count=2))


def test_a_run_replaces_only_its_rows(tmp_path, capsys):
    out = tmp_path / "bench.csv"
    other = table.Row("other", "1", "2", "something", "2", "s", "cpu", "2", "abc")
    old = table.Row("f-curve-hard", "1", "2", "direct formula", "2", "s", turns.Machine().name, "2", "abc")
    table.save_rows(out, [other, old])
    threads = torch.get_num_threads()
    command.main(["--only", "f-curve", "--out", str(out), "--threads", "1"])
    torch.set_num_threads(threads)
    rows = table.read_rows(out)
    assert other in rows and old not in rows and len(rows) == 6
    assert all(float(row.ratio) > 5 for row in rows if row.benchmark.startswith("f-curve"))
