"""Machine faults during training: a one-line error, and resuming gives the weights of an uninterrupted run."""

from __future__ import annotations

import errno
import importlib
import os
import random
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from avsbench_fixtures import write_s4
from safetensors.torch import load_file
from small_training import TINY, broken_off, stand_ins, tiny_data

from icf_avs.config import DataConfig, TrainConfig
from icf_avs.errors import UserError
from icf_avs.training.composed_data import StampsData
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.run import as_user_errors, train
from icf_avs.training.trainer import Trainer

pytestmark = pytest.mark.full

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
kill_training = importlib.import_module("kill_training")
OFTEN = replace(TINY, checkpoint_every=2)


@pytest.fixture(scope="module")
def data() -> StampsData:
    return tiny_data()


@pytest.fixture
def prepared(data: StampsData, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(data, monkeypatch)


@pytest.fixture(scope="module")
def straight(data: StampsData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        stand_ins(data, patch)
        train(OFTEN, folder)
    return folder


def ends_well(folder: Path, straight: Path) -> bool:
    """Resume a run; return whether its weights equal those of the run without a fault."""
    train(OFTEN, folder, resume=True)
    expected, found = (load_file(path / "tiny.safetensors") for path in (straight, folder))
    return all(value.equal(found[name]) for name, value in expected.items())


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """A short run of benchmarks/kill_training.py, with kill times from another seed."""
    kill_training.run(tmp_path / "unbroken")
    chance = random.Random(11)
    for _ in range(2):
        reached, whole = kill_training.killed(tmp_path / "killed", chance)
        assert whole, f"after step {reached}"
    kill_training.run(tmp_path / "killed")
    assert kill_training.differences(tmp_path / "killed", tmp_path / "unbroken") == []


@pytest.mark.parametrize("file", ["last.pt", "000008.png"])
def test_a_full_disk(file: str, prepared: None, straight: Path, tmp_path: Path, monkeypatch) -> None:
    """The disk is full when a temporary file is moved to its final path."""
    broken_off(tmp_path, OFTEN, 7)
    kept, replace_file = (tmp_path / "last.pt").read_bytes(), os.replace

    def full(new: Path, path: Path) -> None:
        if Path(path).name == file:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        replace_file(new, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"No space left.*make room") as raised:
            train(OFTEN, tmp_path, resume=True)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "last.pt").read_bytes() == kept
    assert not any(path.name.startswith(".") for path in [*tmp_path.iterdir(), *(tmp_path / "samples").iterdir()])
    assert ends_well(tmp_path, straight)


def test_out_of_memory_in_the_middle_of_a_run(prepared: None, straight: Path, tmp_path: Path, monkeypatch) -> None:
    train_step = Trainer.train_step

    def failing(trainer: Trainer, *parts: object) -> dict[str, float]:
        if trainer.step == 5:
            torch.empty(2**50)
        return train_step(trainer, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", failing)
        with pytest.raises(UserError, match=r"out of memory at step 5 \(.*DefaultCPUAllocator") as raised:
            train(OFTEN, tmp_path)
    assert "\n" not in str(raised.value) and "--resume" in str(raised.value)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4
    assert ends_well(tmp_path, straight)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(errno.ENOSPC, "No space left", "log"), r"^log: No space left, at step 5; make room"),
        (OSError(errno.EIO, "I/O error"), r"^I/O error, at step 5; check that the data and the run folder"),
        (MemoryError(), r"^out of memory at step 5 \(none is left\)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), r"5 \(CUDA out of memory\)"),
    ],
)
def test_each_fault_is_one_line(fault: Exception, said: str, straight: Path) -> None:
    trainer = SimpleNamespace(step=5, folder=straight)
    with pytest.raises(UserError, match=said) as raised, as_user_errors(trainer, "icf train tiny --resume"):
        raise fault
    assert "\n" not in str(raised.value) and f"go on from {straight / 'last.pt'} with --resume" in str(raised.value)


def test_a_fault_before_the_first_checkpoint(prepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train_step", lambda *_: torch.empty(2**50))
    with pytest.raises(UserError, match=r"at step 0 .* start anew"):
        train(TINY, tmp_path)


def test_other_errors_are_not_hidden(prepared: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "train_step", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        train(TINY, tmp_path)


def test_the_data_folder_vanishes(tmp_path: Path) -> None:
    """The data disk disappears during the run and is back when it resumes."""
    source, away = tmp_path / "set", tmp_path / "away"
    write_s4(source, [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(("train",) * 6 + ("val",))])
    config = small_run()
    expected = load_file(train(config, tmp_path / "straight", source=source))

    def report(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if done == 3:
            source.rename(away)

    with pytest.raises(UserError, match=r"set.*(no such|No such|missing)") as raised:
        train(config, tmp_path / "run", source=source, report=report)
    assert "\n" not in str(raised.value)
    away.rename(source)
    found = load_file(train(config, tmp_path / "run", source=source, resume=True))
    assert all(value.equal(found[name]) for name, value in expected.items())


def small_run() -> TrainConfig:
    """A small S4 run: eight steps, a checkpoint after each."""
    config = with_encoders(RECIPES["s4-pvt-baseline"](), "efficientnet-lite0", "log-mel", "minilm")
    model, spec = replace(config.model, dim=32, pixel_dim=16, heads=4), replace(config.spec, image_size=64)
    sizes = {"audio_pretrain_steps": 1, "steps": 7, "batch": 10, "warmup": 1, "checkpoint_every": 1}
    return replace(config, model=model, spec=spec, data=DataConfig(), **sizes)
