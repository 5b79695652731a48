"""Training on a few real scenes: golden losses, validation, stages, optimizer, learning.

To update the golden losses:  ICF_REGENERATE=1 python -m pytest tests/test_train.py -k golden
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import PLAIN, TINY, broken_off, stand_ins, tiny_data

from icf_avs.checkpoint.serialization import read_recipe
from icf_avs.config import DataConfig, TrainConfig
from icf_avs.networks.guided_parts.losses import GuidedLossWeights, guided_loss
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.synthetic.batches import make_batch
from icf_avs.training.composed_data import StampsData
from icf_avs.training.optimizer import Plateau, schedule
from icf_avs.training.run import train
from icf_avs.training.trainer import Trainer, build_model

GOLDEN = Path(__file__).parent / "golden" / "ten_steps.json"
MASKS_ONLY = replace(TINY, audio_pretrain_steps=0)


@pytest.fixture(scope="module")
def data() -> StampsData:
    return tiny_data()


@pytest.fixture(autouse=True)
def prepared(data: StampsData, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(data, monkeypatch)


@pytest.fixture
def trainer_of(data: StampsData, tmp_path: Path) -> Callable[[TrainConfig], Trainer]:
    return lambda config: Trainer(config, data, build_model(config, data.classes), tmp_path)


@pytest.mark.parametrize("row", ["full", "baseline"])
def test_golden_losses(row: str, data: StampsData, trainer_of: Callable) -> None:
    trainer = trainer_of(TINY if row == "full" else replace(TINY, model=PLAIN))
    found = [trainer.train_step(data.batch(step))["loss"] for step in range(trainer.total)]
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("ICF_REGENERATE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(kept | {row: [round(value, 5) for value in found]}, indent=1) + "\n")
        pytest.skip("regenerated")
    assert found == pytest.approx(kept[row], rel=1e-3)


def test_the_checkpoint_of_the_best_validation(trainer_of: Callable, data: StampsData, tmp_path: Path) -> None:
    """It has the weights of that step and a calibrated offset; validation does not change the training."""
    train(replace(TINY, checkpoint_every=2), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["score"] for row in rows if row["stage"] == "validation"}
    assert sorted(scores) == [5, 7, 9] and len(set(scores.values())) > 1
    best = max(scores, key=lambda step: (scores[step], -step))
    recipe, kept = read_recipe(tmp_path / "best.safetensors"), load_file(tmp_path / "best.safetensors")
    assert recipe["step"] == best + 1 and recipe["validation"]["score"] == pytest.approx(scores[best], abs=1e-5)
    trainer = trainer_of(TINY)
    while trainer.step <= best:
        trainer.train_step(data.batch(trainer.step))
    assert kept.pop("offset") == pytest.approx(recipe["validation"]["offset"])
    state = trainer.model.state_dict()
    assert all(value.equal(state[name]) for name, value in kept.items())
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [f"{s:06d}.png" for s in (6, 8, 10)]


def test_training_scenes_follow_the_seed_and_validation_scenes_do_not(data: StampsData) -> None:
    other = StampsData(replace(TINY, seed=1), None, 1, lambda *_: None)
    seen = [[scene.stamps for part in (run.images, run.clips) for scene in part.scenes] for run in (data, other)]
    assert not any(stamps in seen[0] for stamps in seen[1])
    first, then = next(data.validation()), next(other.validation())
    assert first.masks.equal(then.masks) and first.waveforms.equal(then.waveforms)
    fixed = StampsData(replace(TINY, seed=1, data=replace(TINY.data, seed=0)), None, 1, lambda *_: None)
    assert fixed.images.scenes == data.images.scenes, "the scenes of a seed of their own, where one is set"


@pytest.mark.full
def test_pretraining_ends_when_its_loss_stops_falling(data: StampsData, tmp_path: Path) -> None:
    """The next stage does not change; an interrupted run ends pretraining at the same step, bit for bit."""
    config = replace(TINY, audio_pretrain_steps=30, audio_pretrain_patience=4, steps=2, checkpoint_every=3)
    straight = train(config, tmp_path / "straight")
    taken = read_recipe(straight)["pretraining steps"]
    assert 4 < taken < 30
    rows = map(json.loads, (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines())
    steps = [(row["stage"], row["step"]) for row in rows]
    assert steps[[stage for stage, _ in steps].index("train") - 1 :][:2] == [("pretrain", taken - 1), ("train", 30)]
    broken_off(tmp_path / "broken", config, 4)
    broken = train(config, tmp_path / "broken", resume=True)
    assert read_recipe(broken)["pretraining steps"] == taken
    expected = load_file(straight)
    assert all(value.equal(expected[name]) for name, value in load_file(broken).items())


def test_plateau_detection() -> None:
    noise, steps = np.random.default_rng(0).normal(0, 0.1, 1200), np.arange(1200)
    falling, flat = 4.0 * 0.998**steps, (4.0 - 0.01 * steps).clip(0.5)  # to the end; for 350 steps
    for losses, patience, ends in ((falling, 400, {None}), (flat, 400, {800, 900}), (flat, 0, {None})):
        plateau = Plateau(patience)
        assert next((n for n, loss in enumerate(losses + noise, 1) if plateau.reached(float(loss))), None) in ends


def test_weight_decay_spares_biases_norms_and_temperatures(trainer_of: Callable) -> None:
    trainer = trainer_of(replace(MASKS_ONLY, weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(trained) == sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    spared = {name for name, p in trained.items() if p.dim() < 2 or "bias" in name.rpartition(".")[2]}
    assert {name: decay[id(p)] for name, p in trained.items()} == {
        name: 0 if name in spared else 0.5 for name in trained
    }
    wanted = ("joint_embedding.log_temperature", "implicit_text.vocabulary.log_temperature", "audio.norm.weight")
    assert {f"network.{name}" for name in wanted} <= spared


@pytest.mark.parametrize(("value", "bound"), [(-30.0, 0.01), (30.0, 1.0)])
def test_temperatures_stay_within_bounds(value: float, bound: float, data: StampsData, trainer_of: Callable) -> None:
    """As in CLIP, a temperature out of bounds has the value of the bound and is clamped by the next step."""
    trainer = trainer_of(MASKS_ONLY)
    learnt = [p for name, p in trainer.model.named_parameters() if name.endswith("log_temperature")]
    assert len(learnt) == 2
    for parameter in learnt:
        parameter.data.fill_(value)
    space, vocabulary = trainer.model.network.joint_embedding, trainer.model.network.implicit_text.vocabulary
    assert float(space.temperature.detach()) == pytest.approx(bound)
    assert float(vocabulary.similarity(torch.randn(8, 32)).abs().max().detach()) <= 1 / bound + 1e-3
    assert np.isfinite(trainer.train_step(data.batch(TINY.audio_pretrain_steps))["loss"])
    assert [float(parameter.detach().exp()) for parameter in learnt] == pytest.approx([bound] * 2)


def test_schedule_and_batches(data: StampsData) -> None:
    """Batches have ten images or two clips of five frames, those of audio pretraining eight frames."""
    rates = [schedule(step, 100, 10) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:])) and rates[100] == pytest.approx(0.02)
    assert {data.batch(step).masks.shape[:2] for step in range(4, 16)} == {(10, 1), (2, 5)}
    assert data.batch(0).waveforms.shape[:2] == (8, 1)


def test_the_highres_stage_has_larger_frames() -> None:
    sizes = DataConfig(images=2, clips=2, highres_images=4, highres_clips=2, validation=2)
    config = replace(TINY, data=sizes, highres_steps=8, highres_size=256, highres_clip_share=0.5)
    data = StampsData(config, None, 1, lambda *_: None)
    assert [config.stage(step) for step in (3, 4, 9, 10, 17)] == ["pretrain", "train", "train", "highres", "highres"]
    assert data.batch(9).masks.shape[-2:] == (56, 56)
    shapes = {data.batch(step).masks.shape for step in range(10, 18)}
    assert shapes == {(2, 5, 64, 64), (4, 1, 64, 64)}, "clips and pictures, all of the finishing size"
    assert data.batch(10).pyramid[0].shape[-2:] == (64, 64)
    assert next(data.validation()).masks.shape == (2, 5, 64, 64)
    assert config.final_spec.image_size == 256 and TINY.final_spec.image_size == 224


@torch.inference_mode()
def recall_and_iou(network: SegmentationModel, batch, waves: torch.Tensor) -> tuple[float, float]:
    """Recall of the ground-truth pixels, and IoU over the batch."""
    found, true = network(batch.visual, waves, batch.valid).logits > 0, batch.masks > 0.5
    return float((found & true).sum() / true.sum()), float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize(("row", "rest"), [("full", 0.5), pytest.param("baseline", 0.35, marks=pytest.mark.full)])
def test_the_model_learns_one_batch(row: str, rest: float, data: StampsData) -> None:
    """Four images, fifty steps."""
    torch.manual_seed(0)
    network = build_model(replace(MASKS_ONLY, model=TINY.model if row == "full" else PLAIN), data.classes)
    indices, spec = np.array([0, 3, 5, 9]), replace(TINY.spec, frames=1)
    batch = make_batch(data.images, indices, data.bank, spec, len(data.classes), variation=1)
    optimizer, losses = torch.optim.AdamW(network.parameters(), 4e-3), []
    for _ in range(50):
        output = network(batch.visual, batch.waveforms, batch.valid, sounding=batch.sounding)
        loss = guided_loss(output, batch, network.network.joint_embedding, GuidedLossWeights())["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < rest * losses[0]
    share, iou = recall_and_iou(network.eval(), batch, batch.waveforms)
    assert iou > 0.6
    if row == "full":
        silence, _ = recall_and_iou(network, batch, torch.zeros_like(batch.waveforms))
        assert silence < 0.5 * share
