"""The benchmarks run at a tiny size and write the right columns; TPAVI has the size that is public."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tagger_weights import published_weights
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import lower_precision as precision  # noqa: E402
from benchmarks import memory as peak  # noqa: E402
from benchmarks import models, plug_in, processes, scores, spectrograms, table, turns  # noqa: E402
from benchmarks import segmenting as segmenting_module  # noqa: E402
from benchmarks.data import decoding, loading  # noqa: E402
from benchmarks.engines import engines  # noqa: E402
from benchmarks.inference import inference  # noqa: E402
from benchmarks.live import live  # noqa: E402
from benchmarks.tpavi import TPAVI, TPAVISegmenter, parameters, second_branch  # noqa: E402
from benchmarks.training_step import training_step  # noqa: E402
from icf_avs.config import ContrastiveConfig, ImplicitTextConfig, ModelConfig  # noqa: E402
from icf_avs.errors import UserError  # noqa: E402
from icf_avs.evaluation.metrics import f_curves  # noqa: E402
from icf_avs.media.vggish_frontend import log_mel  # noqa: E402
from icf_avs.networks.build import build_model  # noqa: E402
from icf_avs.types import ClipSpec  # noqa: E402

pytestmark = pytest.mark.full

ONCE = turns.Machine(turns=1, threads=1)
SMALL = models.Encoder("resnet-50", True, depths=(1, 1, 1, 1))
COLUMNS = "benchmark,ours,reference,reference_name,ratio,unit,device,threads,revision"


def named(rows) -> dict[tuple[str, str], table.Row]:
    """Rows by benchmark and reference; every one of them has figures."""
    found = {(row.benchmark, row.reference_name): row for row in rows}
    for row in found.values():
        assert float(row.reference) > 0, row
        if "-overhead" not in row.benchmark:  # a difference, which at a tiny size is mostly chance
            assert float(row.ours) > 0 and float(row.ratio) > 0, row
        assert row.unit and row.device and row.threads == "1" and row.revision
    return found


@pytest.mark.parametrize(("name", "millions"), [("resnet-50", 91.40), ("pvt-v2-b5", 101.32)])
def test_tpavi_has_the_parameters_that_are_public(name: str, millions: float):
    with torch.device("meta"):
        model = TPAVISegmenter(models.Encoder(name, True).build(train=True))
    unused = second_branch(model) if name == "resnet-50" else 0
    assert (parameters(model) + unused) / 1e6 == pytest.approx(millions, abs=0.005)


def test_tpavi_attends_from_every_pixel_to_the_sound_of_every_frame():
    torch.manual_seed(0)
    module, x, sound = TPAVI().eval(), torch.randn(2, 256, 3, 2, 2), torch.randn(2, 3, 128)
    value, query, key = ((layer.weight.flatten(1), layer.bias) for layer in (module.g, module.theta, module.phi))
    pixels = x.movedim(1, -1).flatten(1, 3)  # B N 256
    heard = module.audio(sound).repeat_interleave(4, 1)
    v, q, k = (given @ weight.T + bias for given, (weight, bias) in ((pixels, value), (pixels, query), (heard, key)))
    mixed = (q @ k.transpose(1, 2) / 12) @ v
    mu, norm = module.mu
    out = mixed @ mu.weight.flatten(1).T + mu.bias
    out = pixels + out / (1 + norm.eps) ** 0.5
    wanted = module.norm(out).unflatten(1, (3, 2, 2)).movedim(-1, 1)
    torch.testing.assert_close(module(x, sound), wanted, atol=1e-5, rtol=1e-4)


def test_the_reference_has_the_librarys_own_linear_layers():
    encoder = models.Encoder("pvt-v2-b5", "s4-pvt", depths=(1, 1, 1, 1))
    networks = {who: build(encoder).visual for who, build in (("ours", models.ours), ("tpavi", models.tpavi))}
    for who, network in networks.items():
        linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
        assert {module.forward.__func__ is nn.Linear.forward for module in linears} == {who == "tpavi"}
    networks["tpavi"].load_state_dict(networks["ours"].state_dict())
    frames = models.batch(frames=2, size=64).frames[0]
    for mine, theirs in zip(networks["ours"](frames), networks["tpavi"](frames), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_inference_and_training_at_a_tiny_size():
    found = named(inference(ONCE, [SMALL, models.EMBEDDED], size=64))
    assert {name for name, _ in found} >= {"inference-resnet-50", "inference-resnet-50-overhead"}
    assert ("inference-resnet-50", "TPAVI, same encoder") in found
    assert ("inference-efficientnet-lite0", "TPAVI, same encoder") not in found
    assert ("inference-resnet-50-overhead-given-embedding", "encoder alone") in found
    assert ("inference-efficientnet-lite0-overhead-given-embedding", "encoder alone") not in found
    whole = found["inference-resnet-50", "encoder alone"]
    rest = found["inference-resnet-50-overhead", "encoder alone"]
    assert float(rest.ours) == pytest.approx(float(whole.ours) - float(whole.reference), rel=0.02)
    steps = named(training_step(ONCE, [SMALL], size=64, clips=1))
    assert {reference for _, reference in steps} == {"TPAVI, same encoder", "our baseline row"}


def test_the_formula_of_f_and_the_histogram_agree():
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
    model = build_model(config, ClipSpec(image_size=64, frames=2), models.EMBEDDED.build(), names).eval()
    found = named(engines(ONCE, model))
    assert set(found) == {("engine-onnxruntime", "PyTorch"), ("engine-compiled", "PyTorch")}


def test_the_plug_in_benchmark_counts_the_text_encoders(monkeypatch):
    encoded = []
    plain = plug_in.TextEncoder.__call__
    monkeypatch.setattr(plug_in.TextEncoder, "__call__", lambda *given: encoded.append(given[1]) or plain(*given))
    assert plug_in.seconds_a_step(SMALL, True, clips=1, size=64) > 0
    assert len(encoded) == 2 * 4, "before a period of steps and in it each of four banks goes once through its encoder"
    assert plug_in.seconds_a_step(SMALL, False, clips=1, size=64) > 0
    assert len(encoded) == 2 * 4


def test_the_plug_in_benchmark_pairs_processes(monkeypatch):
    told = {"icf": processes.Finished(60, 100, 3000, "3.0\n"), "alone": processes.Finished(40, 70, 2000, "2.0\n")}
    monkeypatch.setattr(plug_in, "finished", lambda machine, *words: told[words[3]])
    found = named(plug_in.plug_in(ONCE, [models.RESNET]))
    step, peak_memory = found["plug-in-step-resnet-50", plug_in.ALONE], found["plug-in-memory-resnet-50", plug_in.ALONE]
    assert (step.ours, step.reference, step.ratio, step.unit) == ("3", "2", "0.667", "s/step of 8 clips")
    assert (peak_memory.ours, peak_memory.reference, peak_memory.unit) == ("3000", "2000", "MB, 8 clips")


def test_both_models_of_the_memory_benchmark_run():
    for task in ("inference", "training"):
        for who in ("ours", "tpavi"):
            peak.once(task, who, SMALL, size=64)


def test_log_mel_by_numpy_is_ours(capsys):
    waves = np.random.default_rng(1).normal(0, 0.1, (2, 15_600)).astype(np.float32)
    window = np.hanning(401)[:-1].astype(np.float32)
    mine = log_mel(torch.from_numpy(waves)).numpy()
    np.testing.assert_allclose(spectrograms.by_numpy(waves, spectrograms.filters(), window), mine, atol=1e-3)
    assert ("log-mel", "NumPy") in named(spectrograms.spectrograms(ONCE, count=2))


def test_a_process_is_measured_without_the_one_that_starts_it():
    held = np.ones(40_000_000)  # 320 MB of this process
    small = processes.finished(ONCE, "-c", "pass")
    large = processes.finished(ONCE, "-c", "held = b'1' * 200_000_000")
    assert small.peak < 60 < 200 < large.peak < 300 and held.any()
    assert small.cpu > 0 and 0 < small.wall < 20
    with pytest.raises(subprocess.CalledProcessError):
        processes.finished(ONCE, "-c", "raise SystemExit(3)")


def test_segmenting_and_decoding_of_short_videos(monkeypatch):
    monkeypatch.setattr(segmenting_module, "ONE_TURN", 1)  # each video once, nothing to warm up
    found = named(segmenting_module.segmenting(ONCE, lengths=(1, 2), rates=(1,), size=(64, 48), loop=1))
    assert ("segment-1fps-2s", "real time") in found and ("segment-1fps-2s-memory", "limit") in found
    assert 50 < float(found["segment-1fps-2s-memory", "limit"].ours) < 1500
    assert set(named(decoding(ONCE, rates=(1,), size=(64, 48), loop=1))) == {("decode-1fps", "every picture to RGB")}


def test_segmenting_with_the_checkpoint_for_natural_video(monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    monkeypatch.setattr(segmenting_module, "ONE_TURN", 1)
    found = named(segmenting_module.segmenting_natural(ONCE, lengths=(1,), size=(64, 48), loop=1))
    assert set(found) == {("segment-natural-1fps-1s", "real time"), ("segment-natural-1fps-1s-memory", "limit")}


def test_live_video(monkeypatch):
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    found = named(live(ONCE, lengths=(1, 2), size=(64, 48), loop=1))
    rows = {(f"live-{name}-{length}s-{what}", "limit") for name in ("stamps", "natural") for length in (1, 2)
            for what in ("delay", "memory")}  # fmt: skip
    assert set(found) == rows | {(f"live-{name}-2s-memory", "1 s of video") for name in ("stamps", "natural")}


def test_scenes_and_loader():
    found = named(loading(ONCE, clips=2, passes=2, workers=(1,)))
    assert set(found) == {("scenes", "clips read from files"), ("loader-1", "no workers")}


def test_a_run_replaces_its_own_rows_only(tmp_path, capsys):
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
