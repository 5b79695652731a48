"""A run as a whole: its files, exact resumption after interruptions and machine faults, one-line errors, trackers."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_training import PLAIN, TINY, broken_off, stand_ins, tiny_data

from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.errors import UserError
from icf_avs.training.composed_data import StampsData
from icf_avs.training.optimizer import schedule
from icf_avs.training.recipes import RECIPES
from icf_avs.training.run import IN_PYTHON, as_user_errors, train
from icf_avs.training.trainer import Trainer, build_model

RUN = replace(TINY, steps=8, checkpoint_every=4)  # twelve steps, of which the first four are audio pretraining


@pytest.fixture(scope="module")
def data() -> StampsData:
    return tiny_data()


@pytest.fixture(autouse=True)
def prepared(data: StampsData, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(data, monkeypatch)


@pytest.fixture(scope="module")
def straight(data: StampsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run without a tracker."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(data, patch)
        patch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
        train(RUN, folder)
    return folder


def same(one: Path, other: Path) -> bool:
    """Whether the weights of two runs are bit for bit the same."""
    first, second = (load_file(folder / "tiny.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(value.equal(second[name]) for name, value in first.items())


def rows(folder: Path) -> list[dict]:
    return list(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()))


def log(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["stage"]) for row in rows(folder)]


def last_step(folder: Path) -> int:
    return torch.load(folder / "last.pt", weights_only=True)["step"]


def refused(told: str, *given: object, **options: object) -> None:
    """Training is refused in one line."""
    with pytest.raises(UserError, match=told) as raised:
        train(*given, **options)
    assert "\n" not in str(raised.value)


def test_files_of_a_run(straight: Path, data: StampsData) -> None:
    assert {path.name for path in straight.iterdir()} == {
        "best.safetensors", "last.pt", "metrics.jsonl", "recipe.json", "samples", "tiny.safetensors",
    }  # fmt: skip
    assert sorted(path.name for path in (straight / "samples").iterdir()) == ["000008.png", "000012.png"]
    assert log(straight) == [
        (0, "pretrain"), (7, "validation"), (10, "train"), (11, "train"), (11, "validation"),
    ]  # fmt: skip
    first, *_, trained, _ = rows(straight)
    assert {"loss", "naming", "top1", "seconds"} <= first.keys() and {"loss", "bce"} <= trained.keys()
    model, recipe = load_checkpoint(straight / "tiny.safetensors"), read_recipe(straight / "tiny.safetensors")
    assert model.classes == data.classes and model.config.dim == 32 and model.network.counterfactual.started
    assert (recipe["config"]["seed"], recipe["command"]) == (0, IN_PYTHON)
    assert (recipe["pretraining steps"], recipe["lengthened"]) == (4, [])
    assert json.loads((straight / "recipe.json").read_text())["config"] == recipe["config"]


@pytest.mark.parametrize(
    ("every", "after"), [(2, 4), pytest.param(4, 6, marks=pytest.mark.full), pytest.param(5, 9, marks=pytest.mark.full)]
)
def test_a_resumed_run_ends_bit_for_bit_the_same(every: int, after: int, straight: Path, tmp_path: Path) -> None:
    """Interrupted during audio pretraining, right after it, and during mask training."""
    config = replace(RUN, checkpoint_every=every)
    broken_off(tmp_path, config, after)
    assert last_step(tmp_path) == every
    train(config, tmp_path, resume=True)
    assert same(straight, tmp_path)


def test_resuming_with_other_settings_and_a_second_run_in_a_folder_are_refused(straight: Path) -> None:
    for change in ({"seed": 1}, {"steps": 5}, {"audio_pretrain_steps": 3}, {"model": PLAIN}):
        refused(f"other settings.*{next(iter(change))}", replace(RUN, **change), straight, resume=True)
    refused("holds a run already", RUN, straight)


def test_a_run_can_be_lengthened(straight: Path, tmp_path: Path) -> None:
    """Finished steps are kept; added steps have the learning rate of a run of the new length."""
    folder, longer, totals = tmp_path / "run", replace(RUN, steps=11), list[int]()
    shutil.copytree(straight, folder)
    path = train(longer, folder, resume=True, report=lambda stage, done, total, values: totals.append(total))
    assert totals == [15] * 3 and not same(straight, folder)
    lengthened = [{"at": 12, "from": 8, "to": 11}]
    assert read_recipe(path)["lengthened"] == lengthened and read_recipe(path)["config"]["steps"] == 11
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["step"] == 15
    for group in state["optimizer"]["param_groups"]:
        assert group["lr"] == pytest.approx(group["scale"] * RUN.learning_rate * schedule(10, 11, 2))
    assert log(folder) == [*log(straight), (14, "train"), (14, "validation")]
    train(longer, folder, resume=True)  # resuming a finished run changes nothing
    assert read_recipe(path)["lengthened"] == lengthened


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)])
def test_an_interrupted_run_saves_its_last_step(number: int, straight: Path, tmp_path, monkeypatch, capsys) -> None:
    """The command prints how to resume; that command ends with the weights of an uninterrupted run."""
    monkeypatch.setitem(RECIPES, "tiny", lambda: RUN)
    monkeypatch.chdir(tmp_path)
    train_step = Trainer.train_step

    def interrupted(trainer: Trainer, *parts: object) -> dict[str, float]:
        if trainer.step == 6:
            os.kill(os.getpid(), number)
        return train_step(trainer, *parts)

    typed, folder = "icf train tiny --out 'a run' --threads 1 --workers 1 --device cpu", tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert main(shlex.split(typed)[1:]) == 128 + number
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"icf: stopped; a run/last.pt has step 7 of 12; go on with: {typed} --resume"
    assert last_step(folder) == 7
    assert not list(folder.rglob("*partial*")) and not (folder / "tiny.safetensors").exists()
    assert main(shlex.split(error.partition("go on with: icf ")[2])) == 0
    assert same(straight, folder) and read_recipe(folder / "tiny.safetensors")["command"] == typed


def test_a_machine_fault_is_one_line(straight: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as allocation:
        torch.empty(2**50)
    faults = {
        r"^log: No space left, at step 5; make room": OSError(errno.ENOSPC, "No space left", "log"),
        r"^I/O error, at step 5; check that the data and the run folder": OSError(errno.EIO, "I/O error"),
        r"^out of memory at step 5 \(none is left\)": MemoryError(),
        r"5 \(CUDA out of memory\)": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        r"out of memory at step 5 \(.*DefaultCPUAllocator": allocation.value,
    }
    for folder, advice in ((straight, "go on from .*/last.pt with --resume$"), (tmp_path, "start anew")):
        trainer = SimpleNamespace(step=5, folder=folder)
        for said, fault in faults.items():
            with pytest.raises(UserError, match=f"{said}.*{advice}"), as_user_errors(trainer, ""):
                raise fault
    with pytest.raises(RuntimeError, match="size"), as_user_errors(trainer, ""):  # a bug is not hidden
        torch.zeros(2) @ torch.zeros(3)


def test_values_that_are_not_finite_end_the_run_and_are_not_saved(data: StampsData, tmp_path: Path) -> None:
    refused(r"the loss is (nan|inf|-inf) and its gradient", replace(RUN, learning_rate=1e30), tmp_path / "run")
    trainer = Trainer(RUN, data, build_model(RUN, data.classes), tmp_path)
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if p.requires_grad).view(-1)[0] = float("inf")
    with pytest.raises(UserError, match="a weight is NaN or infinite after step 0"):
        trainer.save()
    assert not (tmp_path / "last.pt").exists()


def test_a_damaged_state_is_refused(straight: Path, tmp_path: Path) -> None:
    whole, other = (straight / "last.pt").read_bytes(), io.BytesIO()
    torch.save({"step": 3}, other)
    for content in (whole[: len(whole) // 2], b"", other.getvalue()):
        (tmp_path / "last.pt").write_bytes(content)
        refused("damaged", RUN, tmp_path, resume=True)


@pytest.mark.full
def test_tensorboard_shows_terms_by_stage_and_clips(straight: Path, tmp_path: Path) -> None:
    """A resumed run repeats steps that were logged; each is shown once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    broken_off(tmp_path, RUN, 12)  # step 10 is logged, and comes again from step 8 on
    train(RUN, tmp_path, resume=True)
    shown = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()
    expected = {"pretrain/naming", "pretrain/loss", "train/bce", "train/counterfactual", "validation/score"}
    assert expected <= set(shown.Tags()["scalars"]) and any("recipe" in tag for tag in shown.Tags()["tensors"])
    assert [event.step for event in shown.Scalars("train/loss")] == [10, 11]
    assert [event.step for event in shown.Images("samples")] == [7, 11]
    assert same(straight, tmp_path), "tracking does not change training"


@pytest.mark.full
def test_nothing_is_sent_without_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever environment variables are set, no tracker is imported and no connection opened."""
    called = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: called.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address: called.append(address))
    for name in ("WANDB_API_KEY", "COMET_API_KEY", "MLFLOW_TRACKING_URI", "ACCELERATE_LOG_WITH"):
        monkeypatch.setenv(name, "all")
    for module in ("wandb", "comet_ml", "mlflow", "clearml", "aim", "trackio", "swanlab"):
        monkeypatch.setitem(sys.modules, module, None)  # an import would fail
    train(TINY, tmp_path)
    assert not called and not list(tmp_path.glob("wandb*"))
    refused(r"pip install 'icf-avs\[wandb\]'", TINY, tmp_path / "asked", wandb=True)
