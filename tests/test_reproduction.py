"""The reproduction study: rows are distinct runs, scores and the summary's numbers are right."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_guided import NAMES, SIZE, random_batch, small_host

from icf_avs.errors import UserError
from icf_avs.evaluation.metrics import StrictMetric
from icf_avs.training.train_module import build_train_module
from icf_avs.types import VisualFeatures
from research.reproduction import RUNS, build
from research.rows import ROWS, base, digest, pretraining
from research.scoring import COLUMNS, CONDITIONS, MIXED, SOUNDS, TestClip, score
from research.summary import PAIRS, pairs_table, rows_table, summary_command

pytestmark = pytest.mark.full
TestClip.__test__ = False


def test_rows_are_distinct_runs() -> None:
    configs = {name: row.config(0, 400) for name, row in ROWS.items()}
    assert len(set(map(digest, configs.values()))) == len(ROWS)
    assert digest(configs["all"]) == digest(base(3, 400)) != digest(ROWS["all"].config(0, 300))
    assert all((config.scene_seed, config.data) == (0, pretraining(0).data) for config in configs.values())
    assert {name for pair in PAIRS for name in pair} <= set(ROWS)


def test_scores_equal_those_of_the_network() -> None:
    model, batch = small_host("query").eval(), random_batch(2, frames=5)
    clips = []
    for index in range(2):
        levels = [level[index].half() for level in batch.pyramid]
        mixed = {count: [level + count for level in levels] for count in MIXED.values()}
        sounds = torch.stack([batch.sound[index] * (number + 1) for number in range(len(SOUNDS))])
        truth = torch.nn.functional.interpolate(batch.masks[index][None], (SIZE, SIZE))[0] > 0.5
        clips.append(TestClip({0: levels, **mixed}, sounds, truth, np.ones(5, bool)))
    found = score(model, clips)
    assert tuple(found) == COLUMNS
    for condition in CONDITIONS:
        metric, heard = StrictMetric(sync_on_compute=False), SOUNDS.index(condition) if condition in SOUNDS else 0
        for clip in clips:
            levels = [level[None].float() for level in clip.pyramids[MIXED.get(condition, 0)]]
            with torch.inference_mode():
                valid = torch.ones(1, 5, dtype=torch.bool)
                logits = model(VisualFeatures(levels), clip.sounds[heard][None], valid).logits
            masks = torch.nn.functional.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
            metric.update(masks[0].sigmoid(), clip.truth)
        column = "miou" if condition == "true" else f"miou_{condition}"
        assert found[column] == pytest.approx(metric.compute()["miou"], abs=1e-6), condition


def a_run(row: str, seed: int, miou: float, steps: int = 400) -> dict[str, str]:
    line = dict.fromkeys(RUNS.columns, "0.1000") | {"row": row, "seed": str(seed), "steps": str(steps)}
    return line | {"miou": f"{miou:.4f}", "config_hash": digest(ROWS[row].config(seed, steps))}


def test_summary_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [a_run("baseline", seed, 0.4 + 0.01 * seed) for seed in (0, 1, 2)]
    lines += [a_run("all", seed, miou) for seed, miou in enumerate((0.42, 0.42, 0.45))]
    rows = {line["row"]: line for line in rows_table(lines)}
    assert rows["all"]["miou"] == "0.430 ± 0.017" and rows["all"]["seeds"] == "3" and rows["all"]["steps"] == "400"
    pair = next(line for line in pairs_table(lines) if line["row"] == "all" and line["score"] == "miou")
    assert pair["difference"] == "+0.0200" and pair["of_each_seed"] == "+0.020 +0.010 +0.030"
    # differences .02, .01, .03: t = .02 / (.01 / sqrt 3) = 3.46 with 2 degrees of freedom
    t = 0.02 / (0.01 / math.sqrt(3))
    assert float(pair["p"]) == pytest.approx(1 - t / math.sqrt(2 + t**2), abs=1e-3)
    table = tmp_path / "reproduction.csv"
    for line in lines:
        RUNS.replace(table, (line["row"], line["seed"]), [line])
    summary_command(table, tmp_path)
    assert (tmp_path / "reproduction.png").stat().st_size > 5_000 and (tmp_path / "reproduction_pairs.csv").exists()
    with pytest.raises(UserError, match=r"all: its runs have different settings \(steps: 300, 400\)"):
        rows_table([*lines, a_run("all", 3, 0.4, steps=300)])
    with pytest.raises(UserError, match="has no run yet"):
        summary_command(tmp_path / "none.csv", tmp_path)


def test_only_a_trained_encoder_gets_gradients() -> None:
    frames = torch.randint(0, 255, (2, 2, 64, 64, 3), dtype=torch.uint8)
    batch = replace(random_batch(2, 2, kinds=2), pyramid=[], frames=frames)
    for name in ("all", "trained-all"):
        config = ROWS[name].config(0, 1)
        model = build(config, NAMES)
        build_train_module(config, model).train()(batch, "train")["loss"].backward()
        found = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.visual.parameters()]
        assert any(found) == (name == "trained-all")
