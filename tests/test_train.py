"""Training on a handful of real scenes: golden losses, exact resumption, one line for what goes wrong, and learning.

After a wanted change of the numbers:  ICF_REGENERATE=1 python -m pytest tests/test_train.py -k golden
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import PLAIN, TINY, broken_off, stand_ins, tiny_data

from icf_avs.checkpoint import load_checkpoint, read_recipe
from icf_avs.config import DataConfig
from icf_avs.errors import UserError
from icf_avs.model.icf import ICF
from icf_avs.objective.objective import Weights, objective
from icf_avs.stamps.batches import make_batch
from icf_avs.stamps.training_data import StampsData
from icf_avs.training import run
from icf_avs.training import trainer as trainer_module
from icf_avs.training.run import train
from icf_avs.training.trainer import Trainer, build_model, schedule

GOLDEN = Path(__file__).parent / "golden" / "ten_steps.json"


@pytest.fixture(scope="module")
def data() -> StampsData:
    return tiny_data()


@pytest.fixture(autouse=True)
def prepared(data: StampsData, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(data, monkeypatch)


@pytest.mark.parametrize("row", ["full", "baseline"])
def test_golden_losses(row: str, data: StampsData, tmp_path: Path) -> None:
    config = TINY if row == "full" else replace(TINY, model=PLAIN)
    trainer = Trainer(config, data, build_model(config, data.classes), tmp_path)
    found = [trainer.advance(data.batch(step))["loss"] for step in range(trainer.total)]
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("ICF_REGENERATE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(kept | {row: [round(value, 5) for value in found]}, indent=1) + "\n")
        pytest.skip("regenerated")
    assert found == pytest.approx(kept[row], rel=1e-3)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "tiny.safetensors")


@pytest.fixture(scope="module")
def straight(data: StampsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without a break."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(data, patch)
        train(TINY, folder)
    return folder


@pytest.mark.parametrize(("every", "after"), [(2, 4), (4, 6), (5, 9)])
def test_a_resumed_run_ends_bit_for_bit_the_same(every: int, after: int, straight: Path, tmp_path: Path) -> None:
    """Broken off while the sounds are named, right after, and while the masks are learnt."""
    config = replace(TINY, checkpoint_every=every)
    broken_off(tmp_path, config, after)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == every
    train(config, tmp_path, resume=True)
    expected, found = weights(straight), weights(tmp_path)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.equal(found[name]), name


def test_what_a_run_leaves(straight: Path, data: StampsData) -> None:
    found = {path.name for path in straight.iterdir()} - {"tensorboard"}  # where it is installed
    assert found == {"best.safetensors", "last.pt", "metrics.jsonl", "recipe.json", "samples", "tiny.safetensors"}
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["stage"]) for row in rows] == [(0, "teach"), (9, "learn"), (9, "validation")]
    assert {"loss", "naming", "top1", "seconds"} <= rows[0].keys() and {"loss", "bce"} <= rows[1].keys()
    model = load_checkpoint(straight / "tiny.safetensors")
    assert model.classes == data.classes and model.config.dim == 32 and model.counterfactual.started
    recipe = read_recipe(straight / "tiny.safetensors")
    assert recipe["config"]["seed"] == 0 and recipe["command"] == "icf train tiny"
    assert json.loads((straight / "recipe.json").read_text())["config"] == recipe["config"]


def test_the_best_checkpoint_is_that_of_the_best_validation(data: StampsData, tmp_path: Path) -> None:
    """Its weights are those of that step, calibrated; to look on changes nothing of what is learnt."""
    train(replace(TINY, checkpoint_every=1), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["score"] for row in rows if row["stage"] == "validation"}
    assert sorted(scores) == [4, 5, 6, 7, 8, 9] and len(set(scores.values())) > 1
    best = max(scores, key=lambda step: (scores[step], -step))
    recipe = read_recipe(tmp_path / "best.safetensors")
    assert recipe["step"] == best + 1 and recipe["validation"]["score"] == pytest.approx(scores[best], abs=1e-5)
    trainer = Trainer(TINY, data, build_model(TINY, data.classes), tmp_path)
    while trainer.step <= best:
        trainer.advance(data.batch(trainer.step))
    kept = load_file(tmp_path / "best.safetensors")
    assert kept.pop("offset") == pytest.approx(recipe["validation"]["offset"])
    state = trainer.model.state_dict()
    assert all(value.equal(state[name]) for name, value in kept.items())
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [f"{s:06d}.png" for s in range(5, 11)]


def test_a_finished_run_resumes_to_itself(straight: Path) -> None:
    before = weights(straight)
    train(TINY, straight, resume=True)
    assert all(value.equal(before[name]) for name, value in weights(straight).items())


def test_another_seed_is_another_run(data: StampsData, tmp_path: Path) -> None:
    losses = []
    for seed in (0, 1):
        config = replace(TINY, seed=seed)
        other = run.training_data(config, None, 1, lambda *_: None)
        trainer = Trainer(config, other, build_model(config, data.classes), tmp_path)
        losses.append(trainer.advance(other.batch(0))["loss"])
    assert losses[0] != losses[1]


def test_training_scenes_follow_the_seed_and_validation_scenes_do_not(data: StampsData) -> None:
    """No scene of one seed is met again under another, in whatever set."""
    other = StampsData(replace(TINY, seed=1), None, 1, lambda *_: None)
    seen = [[scene.stamps for features in (run.pictures, run.clips) for scene in features.scenes]
            for run in (data, other)]  # fmt: skip
    assert not any(stamps in seen[0] for stamps in seen[1])
    first, then = next(data.validation()), next(other.validation())
    assert first.masks.equal(then.masks) and first.waves.equal(then.waves)
    fixed = StampsData(replace(TINY, seed=1, data=replace(TINY.data, seed=0)), None, 1, lambda *_: None)
    assert fixed.pictures.scenes == data.pictures.scenes, "the scenes of a seed of their own, where one is set"


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to resume from"):
        train(TINY, tmp_path, resume=True)


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 7}, {"model": PLAIN}])
def test_resumption_with_other_settings(change: dict, straight: Path) -> None:
    with pytest.raises(UserError, match="other settings") as raised:
        train(replace(TINY, **change), straight, resume=True)
    assert "\n" not in str(raised.value)


def test_weights_that_are_no_numbers_are_not_kept(data: StampsData, straight: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes((straight / "last.pt").read_bytes())
    trainer = Trainer(TINY, data, build_model(TINY, data.classes), tmp_path)
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if p.requires_grad).view(-1)[0] = float("inf")
    with pytest.raises(UserError, match="a weight is no number after step 0"):
        trainer.save()
    assert (tmp_path / "last.pt").read_bytes() == (straight / "last.pt").read_bytes()


@pytest.mark.parametrize("spoil", ["truncated", "text", "empty", "another dictionary"])
def test_resumption_from_a_damaged_file(spoil: str, straight: Path, tmp_path: Path) -> None:
    whole = (straight / "last.pt").read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "text": b"weights\n" * 99, "empty": b""}.get(spoil)
    if content is None:
        torch.save({"step": 3}, tmp_path / "last.pt")
    else:
        (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="damaged") as raised:
        train(TINY, tmp_path, resume=True)
    assert "\n" not in str(raised.value)


def test_a_folder_that_holds_a_run(straight: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        train(TINY, straight)


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf|-inf) and its gradient") as raised:
        train(replace(TINY, learning_rate=1e30), tmp_path)
    assert "\n" not in str(raised.value)


def test_a_full_disk_keeps_the_checkpoint_before(
    data: StampsData, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last.pt").write_bytes((straight / "last.pt").read_bytes())
    trainer = Trainer(TINY, data, build_model(TINY, data.classes), tmp_path)
    trainer.restore()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer_module.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        trainer.save()
    assert (tmp_path / "last.pt").read_bytes() == (straight / "last.pt").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_schedule() -> None:
    rates = [schedule(step, 100, 10) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:])) and rates[100] == pytest.approx(0.02)


def test_batches_follow_from_seed_and_step(data: StampsData) -> None:
    one, same, other = data.batch(7), data.batch(7), data.batch(8)
    assert one.waves.equal(same.waves) and one.masks.equal(same.masks)
    assert one.waves.shape != other.waves.shape or not one.waves.equal(other.waves)
    shapes = {data.batch(step).masks.shape[:2] for step in range(4, 16)}
    assert shapes == {(10, 1), (2, 5)}  # ten frames: so many pictures, or two clips of five
    assert data.batch(0).waves.shape[:2] == (8, 1)


def test_the_finishing_stage_sees_larger_pictures() -> None:
    sizes = DataConfig(pictures=2, clips=2, finish_pictures=4, finish_clips=2, validation=2)
    config = replace(TINY, data=sizes, finish=8, finish_size=256, finish_clip_share=0.5)
    data = StampsData(config, None, 1, lambda *_: None)
    assert [config.stage(step) for step in (3, 4, 9, 10, 17)] == ["teach", "learn", "learn", "finish", "finish"]
    assert data.batch(9).masks.shape[-2:] == (56, 56)
    shapes = {data.batch(step).masks.shape for step in range(10, 18)}
    assert shapes == {(2, 5, 64, 64), (4, 1, 64, 64)}, "clips and pictures, all of the finishing size"
    assert data.batch(10).pyramid[0].shape[-2:] == (64, 64)
    assert next(data.validation()).masks.shape == (2, 5, 64, 64)
    assert config.final_spec.image_size == 256 and TINY.final_spec.image_size == 224


def overfitted(data: StampsData, model: dict, steps: int) -> tuple[ICF, object, list[float]]:
    """A model trained on one batch of four pictures, that batch, and its losses."""
    config = replace(TINY, model=model, teach_steps=0)
    torch.manual_seed(0)
    network = build_model(config, data.classes)
    indices = np.array([0, 3, 5, 9])
    batch = make_batch(data.pictures, indices, data.bank, replace(TINY.spec, frames=1), len(data.classes), variation=1)
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    losses = []
    for _ in range(steps):
        output = network(batch.pyramid, batch.waves, batch.valid, batch.sounding)
        loss = objective(output, batch, network.shared_space, Weights())["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return network.eval(), batch, losses


@torch.inference_mode()
def marked(network: ICF, batch, waves: torch.Tensor) -> tuple[float, float]:
    """Share of the true masks that is marked, and IoU over the batch."""
    found = network(batch.pyramid, waves, batch.valid).logits > 0
    true = batch.masks > 0.5
    return float((found & true).sum() / true.sum()), float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("row", ["full", "baseline"])
def test_it_learns(row: str, data: StampsData) -> None:
    network, batch, losses = overfitted(data, TINY.model if row == "full" else PLAIN, 50)
    assert losses[-1] < (0.5 if row == "full" else 0.35) * losses[0]
    share, iou = marked(network, batch, batch.waves)
    assert iou > 0.6
    if row == "full":
        silence, _ = marked(network, batch, torch.zeros_like(batch.waves))
        assert silence < 0.5 * share
