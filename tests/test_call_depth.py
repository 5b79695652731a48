"""From the command to the gradient it is a few calls: what a reader of a training step has to follow."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from avsbench_fixtures import write_ms3

import icf_avs
from icf_avs.__main__ import main
from icf_avs.config import PlugInConfig, TrainConfig
from icf_avs.icf import CDCL
from icf_avs.training import run
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.trainer import Trainer

PACKAGE = Path(icf_avs.__file__).parent
MOST = 4


def tiny() -> TrainConfig:
    config = with_encoders(RECIPES["ms3-pvt"](), "efficientnet-lite0", "log-mel", "minilm")
    model = replace(config.model, dim=32, heads=4, layers=1)
    return replace(
        config, name="tiny", model=model, icf=PlugInConfig(None, None, CDCL(dim=16)), batch=2 * config.spec.frames,
        spec=replace(config.spec, image_size=64), audio_pretrain_steps=0, steps=1, warmup=1,
    )  # fmt: skip


def test_from_the_command_to_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[list[str]] = []

    class Traced(Trainer):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            weight = next(p for p in self.train_module.model.network.head.parameters() if p.requires_grad)
            weight.register_hook(self.note)

        def note(self, gradient: object) -> None:
            ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
            stacks.append([f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.name}" for frame in ours])

    monkeypatch.setattr(run, "Trainer", Traced)
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    splits = ("train", "train", "val", "test")
    write_ms3(tmp_path / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(splits)])
    assert main(["train", "tiny", "--data", str(tmp_path / "Multi-sources"), "--out", str(tmp_path / "run")]) == 0
    (stack,) = stacks
    below = stack[stack.index("cli/train.py:_train") :]
    assert len(below) <= MOST, below
    assert below[-1] == "training/trainer.py:train_step"
