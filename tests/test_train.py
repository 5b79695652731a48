"""Training on a few real scenes: golden losses, exact resumption, one-line errors, and learning.

To update the golden losses:  ICF_REGENERATE=1 python -m pytest tests/test_train.py -k golden
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import PLAIN, TINY, broken_off, stand_ins, tiny_data

from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.config import DataConfig, TrainConfig
from icf_avs.errors import UserError
from icf_avs.networks.guided_parts.losses import GuidedLossWeights, guided_loss
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.synthetic.batches import make_batch
from icf_avs.training import run
from icf_avs.training.composed_data import StampsData
from icf_avs.training.optimizer import Plateau, adamw, schedule
from icf_avs.training.recipes import RECIPES
from icf_avs.training.run import IN_PYTHON, train
from icf_avs.training.trainer import Trainer, build_model

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
    found = [trainer.train_step(data.batch(step))["loss"] for step in range(trainer.total)]
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
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(data, patch)
        train(TINY, folder)
    return folder


@pytest.mark.parametrize(("every", "after"), [(2, 4), (4, 6), (5, 9)])
def test_a_resumed_run_ends_bit_for_bit_the_same(every: int, after: int, straight: Path, tmp_path: Path) -> None:
    """Interrupted during audio pretraining, right after it, and during mask training."""
    config = replace(TINY, checkpoint_every=every)
    broken_off(tmp_path, config, after)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == every
    train(config, tmp_path, resume=True)
    expected, found = weights(straight), weights(tmp_path)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.equal(found[name]), name


def test_files_of_a_run(straight: Path, data: StampsData) -> None:
    found = {path.name for path in straight.iterdir()} - {"tensorboard"}  # if installed
    assert found == {"best.safetensors", "last.pt", "metrics.jsonl", "recipe.json", "samples", "tiny.safetensors"}
    rows = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["stage"]) for row in rows] == [(0, "pretrain"), (9, "train"), (9, "validation")]
    assert {"loss", "naming", "top1", "seconds"} <= rows[0].keys() and {"loss", "bce"} <= rows[1].keys()
    model = load_checkpoint(straight / "tiny.safetensors")
    assert model.classes == data.classes and model.config.dim == 32 and model.network.counterfactual.started
    recipe = read_recipe(straight / "tiny.safetensors")
    assert recipe["config"]["seed"] == 0 and recipe["command"] == IN_PYTHON
    assert recipe["pretraining steps"] == 4 and recipe["lengthened"] == []
    assert json.loads((straight / "recipe.json").read_text())["config"] == recipe["config"]


def test_the_best_checkpoint_is_that_of_the_best_validation(data: StampsData, tmp_path: Path) -> None:
    """It has the weights of that step and a calibrated offset; validation does not change the training."""
    train(replace(TINY, checkpoint_every=1), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["score"] for row in rows if row["stage"] == "validation"}
    assert sorted(scores) == [4, 5, 6, 7, 8, 9] and len(set(scores.values())) > 1
    best = max(scores, key=lambda step: (scores[step], -step))
    recipe = read_recipe(tmp_path / "best.safetensors")
    assert recipe["step"] == best + 1 and recipe["validation"]["score"] == pytest.approx(scores[best], abs=1e-5)
    trainer = Trainer(TINY, data, build_model(TINY, data.classes), tmp_path)
    while trainer.step <= best:
        trainer.train_step(data.batch(trainer.step))
    kept = load_file(tmp_path / "best.safetensors")
    assert kept.pop("offset") == pytest.approx(recipe["validation"]["offset"])
    state = trainer.model.state_dict()
    assert all(value.equal(state[name]) for name, value in kept.items())
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [f"{s:06d}.png" for s in range(5, 11)]


def test_training_scenes_follow_the_seed_and_validation_scenes_do_not(data: StampsData) -> None:
    other = StampsData(replace(TINY, seed=1), None, 1, lambda *_: None)
    seen = [[scene.stamps for features in (run.images, run.clips) for scene in features.scenes]
            for run in (data, other)]  # fmt: skip
    assert not any(stamps in seen[0] for stamps in seen[1])
    first, then = next(data.validation()), next(other.validation())
    assert first.masks.equal(then.masks) and first.waveforms.equal(then.waveforms)
    fixed = StampsData(replace(TINY, seed=1, data=replace(TINY.data, seed=0)), None, 1, lambda *_: None)
    assert fixed.images.scenes == data.images.scenes, "the scenes of a seed of their own, where one is set"


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 5}, {"audio_pretrain_steps": 3}, {"model": PLAIN}])
def test_resuming_with_other_settings_is_refused(change: dict, straight: Path) -> None:
    with pytest.raises(UserError, match="other settings") as raised:
        train(replace(TINY, **change), straight, resume=True)
    assert "\n" not in str(raised.value) and f"{next(iter(change))}" in str(raised.value)


def test_a_run_can_be_lengthened(straight: Path, tmp_path: Path) -> None:
    """Finished steps are kept; added steps have the learning rate of a run of the new length."""
    shutil.copytree(straight, tmp_path / "run")
    longer = replace(TINY, steps=9)
    rates: list[float] = []

    def report(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        rates.append(values["loss"])
        assert total == 13

    path = train(longer, tmp_path / "run", resume=True, report=report)
    assert len(rates) == 3
    recipe = read_recipe(path)
    assert recipe["lengthened"] == [{"at": 10, "from": 6, "to": 9}] and recipe["config"]["steps"] == 9
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == 13
    for group in state["optimizer"]["param_groups"]:
        assert group["lr"] == pytest.approx(group["scale"] * TINY.learning_rate * schedule(8, 9, 2))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["stage"]) for row in rows if row["stage"] != "validation"] == [
        (0, "pretrain"), (9, "train"), (10, "train"), (12, "train")]  # fmt: skip
    assert any(not value.equal(weights(straight)[name]) for name, value in weights(tmp_path / "run").items())
    train(longer, tmp_path / "run", resume=True)  # resuming a finished run changes nothing
    assert read_recipe(path)["lengthened"] == recipe["lengthened"]


def test_highres_steps_are_repeated_when_a_run_is_lengthened(data: StampsData, tmp_path: Path) -> None:
    config = replace(TINY, highres_steps=2)
    trainer = Trainer(config, data, build_model(config, data.classes), tmp_path)
    trainer.step = 4 + 6 + 1
    trainer.optimizer = adamw(trainer.config, trainer.train_module, trainer.pretraining)  # of this stage
    trainer.save()
    longer = replace(config, steps=8)
    again = Trainer(longer, data, build_model(longer, data.classes), tmp_path)
    with pytest.raises(UserError, match="steps 6 there, 8 here"):
        again.restore()
    again.restore(longer=True)
    assert again.step == 4 + 6 and longer.stage(again.step) == "train"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full)]
)
def test_an_interrupted_run_saves_its_last_step(
    number: int, code: int, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The command prints how to resume; that command ends with the weights of an uninterrupted run."""
    monkeypatch.setitem(RECIPES, "tiny", lambda: TINY)
    monkeypatch.chdir(tmp_path)
    train_step = Trainer.train_step

    def interrupted(trainer: Trainer, *parts: object) -> dict[str, float]:
        if trainer.step == 6:
            os.kill(os.getpid(), number)
        return train_step(trainer, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert main(["train", "tiny", "--out", "a run", "--threads", "1", "--workers", "1", "--device", "cpu"]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    typed = "icf train tiny --out 'a run' --threads 1 --workers 1 --device cpu"
    assert error == f"icf: stopped; a run/last.pt has step 7 of 10; go on with: {typed} --resume"
    assert torch.load("a run/last.pt", weights_only=True)["step"] == 7
    assert not list(Path("a run").rglob("*partial*")) and not Path("a run/tiny.safetensors").exists()
    assert main(shlex.split(error.partition("go on with: icf ")[2])) == 0
    expected = weights(straight)
    assert all(value.equal(expected[name]) for name, value in weights(Path("a run")).items())
    assert read_recipe(Path("a run/tiny.safetensors"))["command"] == typed


def failing_data(*_: object) -> StampsData:
    raise UserError("no such set")


def test_option_workers_reaches_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(config: TrainConfig, source: Path | None, workers: int, report: object) -> StampsData:
        asked.append(workers)
        return failing_data()

    monkeypatch.setattr(run, "training_data", noted)
    monkeypatch.setitem(RECIPES, "tiny", lambda: TINY)
    for options in (["--workers", "3"], []):
        assert main(["train", "tiny", "--out", str(tmp_path), *options]) == 2
    assert asked == [3, 2]


def test_pretraining_ends_when_its_loss_stops_falling(data: StampsData, tmp_path: Path) -> None:
    """The next stage does not change; an interrupted run ends pretraining at the same step, bit for bit."""
    config = replace(TINY, audio_pretrain_steps=30, audio_pretrain_patience=4, steps=2, checkpoint_every=3)
    straight = train(config, tmp_path / "straight")
    taken = read_recipe(straight)["pretraining steps"]
    assert 4 < taken < 30
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    steps = {stage: [row["step"] for row in rows if row["stage"] == stage] for stage in ("pretrain", "train")}
    assert steps["pretrain"][-1] == taken - 1 and steps["train"][0] == 30
    broken_off(tmp_path / "broken", config, 4)
    broken = train(config, tmp_path / "broken", resume=True)
    assert read_recipe(broken)["pretraining steps"] == taken
    expected = load_file(straight)
    assert all(value.equal(expected[name]) for name, value in load_file(broken).items())


def ended(losses: list[float], patience: int) -> int | None:
    plateau = Plateau(patience)
    for count, loss in enumerate(losses, 1):
        plateau = Plateau(**json.loads(json.dumps(plateau.state())))  # as in last.pt
        if plateau.reached(loss):
            return count
    return None


def test_plateau_detection() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 1200).tolist()
    falling = [4.0 * 0.998**step + value for step, value in enumerate(noise)]
    assert ended(falling, 400) is None, "it falls to the end"
    flat = [max(0.5, 4.0 - 0.01 * step) + value for step, value in enumerate(noise)]
    assert ended(flat, 400) in (800, 900), "350 steps down, then 400 without progress"
    assert ended(flat, 0) is None


def test_weights_that_are_not_finite_are_not_saved(data: StampsData, straight: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes((straight / "last.pt").read_bytes())
    trainer = Trainer(TINY, data, build_model(TINY, data.classes), tmp_path)
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if p.requires_grad).view(-1)[0] = float("inf")
    with pytest.raises(UserError, match="a weight is NaN or infinite after step 0"):
        trainer.save()
    assert (tmp_path / "last.pt").read_bytes() == (straight / "last.pt").read_bytes()


@pytest.mark.parametrize("spoil", ["truncated", "text", "empty", "another dictionary"])
def test_resuming_from_a_damaged_file_is_refused(spoil: str, straight: Path, tmp_path: Path) -> None:
    whole = (straight / "last.pt").read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "text": b"weights\n" * 99, "empty": b""}.get(spoil)
    if content is None:
        torch.save({"step": 3}, tmp_path / "last.pt")
    else:
        (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="damaged") as raised:
        train(TINY, tmp_path, resume=True)
    assert "\n" not in str(raised.value)


def test_a_folder_with_a_run_is_refused(straight: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        train(TINY, straight)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf|-inf) and its gradient") as raised:
        train(replace(TINY, learning_rate=1e30), tmp_path)
    assert "\n" not in str(raised.value)


def test_weight_decay_spares_biases_norms_and_temperatures(data: StampsData, tmp_path: Path) -> None:
    """A step with zero gradients shrinks matrices by rate times decay and keeps biases, norms and temperatures."""
    config = replace(TINY, audio_pretrain_steps=0, learning_rate=0.1, weight_decay=0.5, warmup=0)
    trainer = Trainer(config, data, build_model(config, data.classes), tmp_path)
    every = {id(p): name for name, p in trainer.model.named_parameters() if p.requires_grad}
    groups = trainer.optimizer.param_groups
    assert sorted(every) == sorted(id(p) for group in groups for p in group["params"])
    for group in groups:
        for parameter in group["params"]:
            name = every[id(parameter)]
            spared = parameter.dim() < 2 or "bias" in name.rpartition(".")[2]
            assert group["weight_decay"] == (0 if spared else 0.5), name
            before, parameter.grad = parameter.detach().clone(), torch.zeros_like(parameter)
            parameter.before = before
    trainer.optimizer.step()
    for group in groups:
        for parameter in group["params"]:
            factor = 1 - group["lr"] * group["weight_decay"]
            assert torch.allclose(parameter.detach(), factor * parameter.before), every[id(parameter)]
    kept = {every[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    wanted = ("joint_embedding.log_temperature", "implicit_text.vocabulary.log_temperature", "audio.norm.weight")
    assert {f"network.{name}" for name in wanted} <= kept


@pytest.mark.parametrize("value", [-30.0, 30.0])
def test_temperatures_stay_within_bounds(value: float, data: StampsData, tmp_path: Path) -> None:
    """As in CLIP, a temperature out of bounds has the value of the bound and is clamped by the next step."""
    config = replace(TINY, audio_pretrain_steps=0)
    trainer = Trainer(config, data, build_model(config, data.classes), tmp_path)
    learnt = [p for name, p in trainer.model.named_parameters() if name.endswith("log_temperature")]
    assert len(learnt) == 2
    with torch.no_grad():
        for parameter in learnt:
            parameter.fill_(value)
    space, vocabulary = trainer.model.network.joint_embedding, trainer.model.network.implicit_text.vocabulary
    bound = 0.01 if value < 0 else 1.0
    assert float(space.temperature.detach()) == pytest.approx(bound)
    assert float(vocabulary.similarity(torch.randn(8, 32)).abs().max().detach()) <= 1 / bound + 1e-3
    assert np.isfinite(trainer.train_step(data.batch(TINY.audio_pretrain_steps))["loss"])
    assert [float(parameter.detach().exp()) for parameter in learnt] == pytest.approx([bound] * 2)


def test_schedule() -> None:
    rates = [schedule(step, 100, 10) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0
    assert all(a >= b for a, b in pairwise(rates[10:])) and rates[100] == pytest.approx(0.02)


def test_batches_depend_on_seed_and_step_only(data: StampsData) -> None:
    one, same, other = data.batch(7), data.batch(7), data.batch(8)
    assert one.waveforms.equal(same.waveforms) and one.masks.equal(same.masks)
    assert one.waveforms.shape != other.waveforms.shape or not one.waveforms.equal(other.waveforms)
    shapes = {data.batch(step).masks.shape[:2] for step in range(4, 16)}
    assert shapes == {(10, 1), (2, 5)}  # ten frames: ten images, or two clips of five
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


def overfitted(data: StampsData, model: dict, steps: int) -> tuple[SegmentationModel, object, list[float]]:
    """A model trained on one batch of four images, that batch, and the losses."""
    config = replace(TINY, model=model, audio_pretrain_steps=0)
    torch.manual_seed(0)
    network = build_model(config, data.classes)
    indices = np.array([0, 3, 5, 9])
    batch = make_batch(data.images, indices, data.bank, replace(TINY.spec, frames=1), len(data.classes), variation=1)
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    losses = []
    for _ in range(steps):
        output = network(batch.visual, batch.waveforms, batch.valid, sounding=batch.sounding)
        loss = guided_loss(output, batch, network.network.joint_embedding, GuidedLossWeights())["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return network.eval(), batch, losses


@torch.inference_mode()
def recall_and_iou(network: SegmentationModel, batch, waves: torch.Tensor) -> tuple[float, float]:
    """Recall of the ground-truth pixels, and IoU over the batch."""
    found = network(batch.visual, waves, batch.valid).logits > 0
    true = batch.masks > 0.5
    return float((found & true).sum() / true.sum()), float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("row", ["full", "baseline"])
def test_the_model_learns_one_batch(row: str, data: StampsData) -> None:
    network, batch, losses = overfitted(data, TINY.model if row == "full" else PLAIN, 50)
    assert losses[-1] < (0.5 if row == "full" else 0.35) * losses[0]
    share, iou = recall_and_iou(network, batch, batch.waveforms)
    assert iou > 0.6
    if row == "full":
        silence, _ = recall_and_iou(network, batch, torch.zeros_like(batch.waveforms))
        assert silence < 0.5 * share
