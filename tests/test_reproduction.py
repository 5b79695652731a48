"""The reproduction study: rows are distinct runs, scores and the summary's numbers are right."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_guided import SIZE, random_batch, small_host

from icf_avs.errors import UserError
from icf_avs.evaluation.metrics import StrictMetric
from icf_avs.types import VisualFeatures
from research.reproduction import RUNS
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
    model, batch = small_host("query").eval(), random_batch(1, frames=5)
    levels = [level[0].half() for level in batch.pyramid]
    pyramids = {0: levels, **{count: [level + count for level in levels] for count in MIXED.values()}}
    sounds = torch.stack([batch.sound[0] * (number + 1) for number in range(len(SOUNDS))])
    truth = torch.nn.functional.interpolate(batch.masks, (SIZE, SIZE))[0] > 0.5
    found = score(model, [TestClip(pyramids, sounds, truth, np.ones(5, bool))])
    assert tuple(found) == COLUMNS
    for condition in CONDITIONS:
        metric, heard = StrictMetric(), SOUNDS.index(condition) if condition in SOUNDS else 0
        shown = VisualFeatures([level[None].float() for level in pyramids[MIXED.get(condition, 0)]])
        with torch.inference_mode():
            logits = model(shown, sounds[heard][None], torch.ones(1, 5, dtype=torch.bool)).logits
        masks = torch.nn.functional.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
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
    table = tmp_path / "reproduction.csv"
    for line in lines:
        RUNS.replace(table, (line["row"], line["seed"]), [line])
    summary_command(table, tmp_path)
    assert (tmp_path / "reproduction.png").stat().st_size > 5_000 and (tmp_path / "reproduction_pairs.csv").exists()
    with pytest.raises(UserError, match="has no run yet"):
        summary_command(tmp_path / "none.csv", tmp_path)
