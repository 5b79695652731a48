"""A small run of recipe `natural`: validation, sample sheets and best checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from golden_cases import natural_weights, no_recordings

from icf_avs.checkpoint.serialization import read_recipe
from icf_avs.config import WordDataConfig
from icf_avs.training.recipes import natural
from icf_avs.training.run import train


@pytest.mark.full
def test_validation_writes_samples_and_the_best_checkpoint(tmp_path: Path) -> None:
    recipe = natural()
    tiny = replace(
        recipe, model=replace(recipe.model, dim=32, pixel_dim=16), spec=replace(recipe.spec, image_size=64), steps=4,
        words=WordDataConfig(images=16, clips=2, validation=16), batch=10, warmup=2, checkpoint_every=2,
    )  # fmt: skip
    with natural_weights(), no_recordings():
        train(tiny, tmp_path)
    rows = [json.loads(row) for row in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"] + 1: row["score"] for row in rows if row["stage"] == "validation"}
    best = read_recipe(tmp_path / "best.safetensors")
    assert list(scores) == [2, 4] and best["step"] == max(scores, key=scores.get)
    assert best["validation"]["score"] == pytest.approx(max(scores.values()), abs=1e-5)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["000002.png", "000004.png"]
