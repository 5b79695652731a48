"""Programs behind the figures: benchmarks at a tiny size; the rows, scores and summary of the reproduction study."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_guided import SIZE, random_batch, small_host
from tagger_weights import published_weights
from torch.nn import functional as F

from benchmarks import __main__ as command
from benchmarks import models, optimisations, processes, segmenting, spectrograms, table, training, turns
from benchmarks.data import decoding, loading
from benchmarks.inference import inference
from benchmarks.live import live
from benchmarks.lower_precision import lower_precision
from icf_avs.errors import UserError
from icf_avs.evaluation.metrics import StrictMetric
from icf_avs.types import VisualFeatures
from research.reproduction import RUNS
from research.rows import ROWS, base, digest, pretraining
from research.scoring import COLUMNS, CONDITIONS, MIXED, SOUNDS, TestClip, score
from research.summary import PAIRS, pairs_table, rows_table, summary_command

pytestmark = pytest.mark.full
TestClip.__test__ = False

ONCE = turns.Machine(turns=1, threads=1)
SMALL = models.Encoder("resnet-50", depths=(1, 1, 1, 1))


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


def test_rows_are_distinct_runs() -> None:
    configs = {name: row.config(0, 400) for name, row in ROWS.items()}
    assert len(set(map(digest, configs.values()))) == len(ROWS)
    assert digest(configs["all"]) == digest(base(3, 400)) != digest(ROWS["all"].config(0, 300))
    assert all((config.scene_seed, config.data) == (0, pretraining(0).data) for config in configs.values())
    assert {name for pair in PAIRS for name in pair} <= set(ROWS)


def test_scores_equal_those_of_the_network() -> None:
    model, batch = small_host("query").eval(), random_batch(1, frames=5)
    levels = [level[0].half() for level in batch.pyramid]
    pyramids = {0: levels, **{count: [level + count for level in levels] for count in MIXED.values()}}
    sounds = torch.stack([batch.sound[0] * (number + 1) for number in range(len(SOUNDS))])
    truth = F.interpolate(batch.masks, (SIZE, SIZE))[0] > 0.5
    found = score(model, [TestClip(pyramids, sounds, truth, np.ones(5, bool))])
    assert tuple(found) == COLUMNS
    for condition in CONDITIONS:
        metric, heard = StrictMetric(), SOUNDS.index(condition) if condition in SOUNDS else 0
        shown = VisualFeatures([level[None].float() for level in pyramids[MIXED.get(condition, 0)]])
        with torch.inference_mode():
            logits = model(shown, sounds[heard][None], torch.ones(1, 5, dtype=torch.bool)).logits
        masks = F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
        metric.update(masks[0].sigmoid(), truth)
        column = "miou" if condition == "true" else f"miou_{condition}"
        assert found[column] == pytest.approx(metric.compute()["miou"], abs=1e-6), condition


def test_summary_by_hand(tmp_path: Path) -> None:
    lines = [
        dict.fromkeys(RUNS.columns, "0.1000")
        | {"row": row, "seed": str(seed), "steps": "400", "miou": str(miou)}
        | {"config_hash": digest(ROWS[row].config(seed, 400))}
        for row, scores in {"baseline": (0.4, 0.41, 0.42), "all": (0.42, 0.42, 0.45)}.items()
        for seed, miou in enumerate(scores)
    ]
    rows = {line["row"]: line for line in rows_table(lines)}
    assert rows["all"]["miou"] == "0.430 ± 0.017" and rows["all"]["seeds"] == "3" and rows["all"]["steps"] == "400"
    pair = next(line for line in pairs_table(lines) if line["row"] == "all" and line["score"] == "miou")
    assert pair["difference"] == "+0.0200" and pair["of_each_seed"] == "+0.020 +0.010 +0.030"
    t = 0.02 / (0.01 / math.sqrt(3))  # differences .02, .01, .03; 2 degrees of freedom
    assert float(pair["p"]) == pytest.approx(1 - t / math.sqrt(2 + t**2), abs=1e-3)
    path = tmp_path / "reproduction.csv"
    for line in lines:
        RUNS.replace(path, (line["row"], line["seed"]), [line])
    summary_command(path, tmp_path)
    assert (tmp_path / "reproduction.png").stat().st_size > 5_000 and (tmp_path / "reproduction_pairs.csv").exists()
    with pytest.raises(UserError, match="has no run yet"):
        summary_command(tmp_path / "none.csv", tmp_path)
