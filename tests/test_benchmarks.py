"""Benchmarks run at a tiny size and write the expected columns; the reference network equals TPAVI."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch
from tagger_weights import published_weights
from torch import nn

from benchmarks import __main__ as command
from benchmarks import lower_precision as precision
from benchmarks import memory as peak
from benchmarks import models, optimisations, processes, scores, spectrograms, table, training, turns
from benchmarks import segmenting as segmenting_module
from benchmarks.data import decoding, loading
from benchmarks.engines import engines
from benchmarks.inference import inference
from benchmarks.live import live
from icf_avs.config import ContrastiveConfig, ImplicitTextConfig, ModelConfig
from icf_avs.encoders.registry import build_visual
from icf_avs.errors import UserError
from icf_avs.evaluation.metrics import f_curves
from icf_avs.media.vggish_frontend import log_mel
from icf_avs.networks.build import build_model
from icf_avs.types import ClipSpec

pytestmark = pytest.mark.full

ONCE = turns.Machine(turns=1, threads=1)
SMALL = models.Encoder("resnet-50", depths=(1, 1, 1, 1))
COLUMNS = "benchmark,ours,reference,reference_name,ratio,unit,device,threads,revision"


def named(rows) -> dict[tuple[str, str], table.Row]:
    """Rows by benchmark and reference, after checking that each one has figures."""
    found = {(row.benchmark, row.reference_name): row for row in rows}
    for row in found.values():
        assert float(row.reference) > 0, row
        if "-overhead" not in row.benchmark:  # a difference: mostly noise at a tiny size
            assert float(row.ours) > 0 and float(row.ratio) > 0, row
        assert row.unit and row.device and row.threads == "1" and row.revision
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
    encoder = models.Encoder(name, depths=(1, 1, 1, 1))
    ours, theirs = (models.build(network, encoder) for network in ("tpavi", models.PUBLISHED))
    for interact in ours.network.interact:
        nn.init.normal_(interact.batch_norm.weight)  # initialised to zero: audio would have no effect
    theirs.load_state_dict(ours.state_dict())
    given = models.batch(frames=2, size=64)
    with torch.inference_mode():
        found, expected = (model(given.frames, given.waveforms, given.valid).logits for model in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    linears = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    assert {type(module) for module in linears} == {nn.Linear}, "the library's own"
    assert all(type(module) is models.PairwiseInteraction for module in theirs.network.interact)


def test_inference_at_a_tiny_size(monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    found = named(inference(ONCE, [SMALL], size=64, own_size=64))
    names = {name for name, _ in found}
    assert names >= {f"inference-resnet-50-{network}" for network in models.NETWORKS[1:]}
    assert {"inference-guided-lite0", "inference-open-vocabulary"} <= names
    assert ("inference-resnet-50-query-light-overhead-given-embedding", "encoder alone") in found
    whole = found["inference-resnet-50-query-light", models.PUBLISHED]
    rest = found["inference-resnet-50-query-light-overhead", "encoder alone"]
    assert float(rest.ours) == pytest.approx(float(whole.ours) - float(rest.reference), rel=0.02)


def test_f_by_formula_equals_f_by_histogram():
    for probabilities, truth in scores.inputs().values():
        torch.testing.assert_close(
            f_curves(probabilities[:2], truth[:2]).float(), scores.direct(probabilities[:2], truth[:2]),
            atol=1e-5, rtol=0,
        )  # fmt: skip


def test_lower_precision_at_a_tiny_size(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda program: program)  # takes a compiler and a minute
    found = named(precision.lower_precision(ONCE, [SMALL], clips=1, size=64, side=64))
    assert {name for name, _ in found} == {"bf16-resnet-50", "bf16-compiled-resnet-50", "bf16-peak-resnet-50"}


def test_engines_on_a_small_model(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda program: program)  # takes a compiler and a minute
    parts = {"implicit_text": ImplicitTextConfig(free_words=3), "contrastive": ContrastiveConfig()}
    config = ModelConfig(("bell", "cat"), dim=32, pixel_dim=16, **parts)
    names = torch.nn.functional.normalize(torch.randn(2, 384), dim=-1)
    visual = build_visual("efficientnet-lite0", random=True)
    found = named(engines(ONCE, build_model(config, ClipSpec(image_size=64, frames=2), visual, names).eval()))
    assert set(found) == {("engine-onnxruntime", "PyTorch"), ("engine-compiled", "PyTorch")}


def test_a_training_step_includes_the_text_encoders(monkeypatch):
    encoded = []
    plain = training.TextEncoder.__call__
    monkeypatch.setattr(training.TextEncoder, "__call__", lambda *given: encoded.append(given[1]) or plain(*given))
    assert training.seconds_a_step("query-light+icf", SMALL, size=64) > 0
    assert len(encoded) == 2 * 4, "before a period of steps and in it each of four banks goes once through its encoder"
    for network in models.NETWORKS:
        assert training.seconds_a_step(network, SMALL, clips=1, size=64) > 0
    assert len(encoded) == 2 * 4


def test_training_compares_figures_of_processes(monkeypatch):
    told = {name: processes.Finished(60, 100, 1000 * n, f"{n}.0\n") for n, name in enumerate(models.NETWORKS, 2)}
    told |= {name: processes.Finished(60, 100, 9000, "4.5\n") for name in training.WITH_ICF}
    monkeypatch.setattr(training, "finished", lambda machine, *words: told[words[3]])
    found = named(training.training(ONCE, [SMALL]))
    step = found["training-step-resnet-50-query-light+icf", training.ALONE]
    peak_memory = found["training-memory-resnet-50-query-light+icf", models.PUBLISHED]
    assert (step.ours, step.reference, step.ratio, step.unit) == ("4.5", "3", "0.667", "s/step of 2 clips")
    assert (peak_memory.ours, peak_memory.reference, peak_memory.unit) == ("9000", "2000", "MB, 2 clips")
    assert ("training-step-resnet-50-guided", models.PUBLISHED) in found


def test_every_network_of_the_memory_benchmark_runs():
    for network in models.NETWORKS:
        peak.once(network, SMALL, size=64)


def test_optimisations_at_a_tiny_size(monkeypatch):
    monkeypatch.setattr(optimisations, "finished", lambda *_: processes.Finished(60, 100, 3000, "3.0\n"))
    threads = torch.get_num_threads()
    found = named(optimisations.optimisations(ONCE, SMALL, seconds_of_video=1, side=64))
    torch.set_num_threads(threads)
    assert len(found) == 15
    assert float(found["mask-as-run-lengths", "bool array"].ratio) > 100


def test_log_mel_by_numpy_equals_ours(capsys):
    waves = np.random.default_rng(1).normal(0, 0.1, (2, 15_600)).astype(np.float32)
    window = np.hanning(401)[:-1].astype(np.float32)
    mine = log_mel(torch.from_numpy(waves)).numpy()
    np.testing.assert_allclose(spectrograms.by_numpy(waves, spectrograms.filters(), window), mine, atol=1e-3)
    assert ("log-mel", "NumPy") in named(spectrograms.spectrograms(ONCE, count=2))


def test_measurements_of_a_process_exclude_its_parent():
    held = np.ones(40_000_000)  # 320 MB of this process
    small = processes.finished(ONCE, "-c", "pass")
    large = processes.finished(ONCE, "-c", "held = b'1' * 200_000_000")
    assert small.peak < 60 < 200 < large.peak < 300 and held.any()
    assert small.cpu > 0 and 0 < small.wall < 20
    with pytest.raises(subprocess.CalledProcessError):
        processes.finished(ONCE, "-c", "raise SystemExit(3)")


def test_segmenting_and_decoding_short_videos(monkeypatch):
    monkeypatch.setattr(segmenting_module, "ONE_TURN", 1)  # each video once
    monkeypatch.setattr(segmenting_module, "LEAST_MASKS", 0)  # a video this small shows little
    found = named(segmenting_module.segmenting(ONCE, lengths=(1, 2), rates=(1,), size=(64, 48), loop=1))
    assert ("segment-1fps-2s", "real time") in found and ("segment-1fps-2s-memory", "limit") in found
    assert ("segment-empty-1fps-2s", "real time") in found
    assert 50 < float(found["segment-1fps-2s-memory", "limit"].ours) < 1500
    assert set(named(decoding(ONCE, rates=(1,), size=(64, 48), loop=1))) == {("decode-1fps", "every picture to RGB")}


def test_segmenting_with_the_checkpoint_for_natural_video(monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    monkeypatch.setattr(segmenting_module, "ONE_TURN", 1)
    monkeypatch.setattr(segmenting_module, "LEAST_MASKS", 0)
    found = named(segmenting_module.segmenting_natural(ONCE, lengths=(1,), size=(64, 48), loop=1))
    names = ("segment-natural-1fps-1s", "segment-natural-empty-1fps-1s")
    assert set(found) == {row for name in names for row in ((name, "real time"), (f"{name}-memory", "limit"))}


def test_segmenting_refuses_videos_without_masks(monkeypatch):
    monkeypatch.setattr(segmenting_module, "scene_loop", segmenting_module.pattern_loop)
    with pytest.raises(AssertionError, match="0 with something segmented"):
        list(segmenting_module.segmenting(ONCE, lengths=(1,), rates=(1,), size=(64, 48), loop=1))


def test_live_video(monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    found = named(live(ONCE, lengths=(1, 2), size=(64, 48), loop=1))
    rows = {(f"live-{name}-{length}s-{what}", "limit") for name in ("stamps", "natural") for length in (1, 2)
            for what in ("delay", "memory")}  # fmt: skip
    assert set(found) == rows | {(f"live-{name}-2s-memory", "1 s of video") for name in ("stamps", "natural")}


def test_scenes_and_loader():
    found = named(loading(ONCE, clips=2, passes=2, workers=(1,)))
    assert set(found) == {("scenes", "clips read from files"), ("loader-1", "no workers")}


def test_a_run_replaces_only_its_rows(tmp_path, capsys):
    out = tmp_path / "bench.csv"
    other = table.Row("other", "1", "2", "something", "2", "s", "cpu", "2", "abc")
    old = table.Row("f-curve-hard", "1", "2", "direct formula", "2", "s", turns.Machine().name, "2", "abc")
    table.save_rows(out, [other, old])
    threads = torch.get_num_threads()
    command.main(["--only", "f-curve", "--out", str(out), "--threads", "1"])
    torch.set_num_threads(threads)
    rows = table.read_rows(out)
    assert out.read_text().splitlines()[0] == COLUMNS
    assert other in rows and old not in rows and len(rows) == 6
    assert all(float(row.ratio) > 5 for row in rows if row.benchmark.startswith("f-curve"))
    assert [path.name for path in tmp_path.iterdir()] == ["bench.csv"]
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a table of benchmarks"):
        table.save_rows(tmp_path / "scores.csv", [other])


def test_turns_alternate_and_each_program_is_warm():
    calls = []
    spent = turns.seconds(turns.Machine(turns=2, threads=1), lambda: calls.append("a"), lambda: calls.append("b"))
    assert calls == ["a", "a", "b", "b"] * 2 and [len(values) for values in spent] == [2, 2]
