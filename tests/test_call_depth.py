"""Depth of the call stack from a command to the gradient and to the network, which readers must follow."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from avsbench_fixtures import write_ms3
from clip_maker import make_clip, tone

import icf_avs
from icf_avs.__main__ import main
from icf_avs.config import PlugInConfig, TrainConfig
from icf_avs.icf import CDCL
from icf_avs.inference import pretrained, streaming
from icf_avs.inference.segment import Segmenter
from icf_avs.training import run
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.trainer import Trainer

PACKAGE = Path(icf_avs.__file__).parent
MOST = 4


def package_frames() -> list[str]:
    """Stack frames of the package in this thread, outermost first."""
    ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
    ours = [frame for frame in ours if frame.name != "<listcomp>"]  # a frame only before Python 3.12
    return [f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.name}" for frame in ours]


def tiny() -> TrainConfig:
    config = with_encoders(RECIPES["ms3-pvt"](), "efficientnet-lite0", "log-mel", "minilm")
    model = replace(config.model, dim=32, heads=4, layers=1)
    return replace(
        config, name="tiny", model=model, icf=PlugInConfig(None, None, CDCL(dim=16)), batch=2 * config.spec.frames,
        spec=replace(config.spec, image_size=64), audio_pretrain_steps=0, steps=1, warmup=1,
    )  # fmt: skip


def test_depth_from_the_command_to_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks: list[list[str]] = []

    class Traced(Trainer):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            weight = next(p for p in self.train_module.model.network.head.parameters() if p.requires_grad)
            weight.register_hook(self.note)

        def note(self, gradient: object) -> None:
            stacks.append(package_frames())

    monkeypatch.setattr(run, "Trainer", Traced)
    monkeypatch.setitem(RECIPES, "tiny", tiny)
    splits = ("train", "train", "val", "test")
    write_ms3(tmp_path / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(splits)])
    assert main(["train", "tiny", "--data", str(tmp_path / "Multi-sources"), "--out", str(tmp_path / "run")]) == 0
    (stack,) = stacks
    below = stack[stack.index("cli/train.py:_train") :]
    assert len(below) <= MOST, below
    assert below[-1] == "training/trainer.py:train_step"


def test_depth_from_the_command_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs in a thread: the calls before it and in it are added up."""
    stacks: list[list[str]] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *given: Any, **options: Any) -> Any:
            stacks.append(package_frames())
            return super().submit(*given, **options)

    def load(checkpoint: str, device: str) -> Segmenter:
        segmenter = real(checkpoint, device)
        segmenter.model.network.register_forward_pre_hook(lambda *_: stacks.append(package_frames()))
        return segmenter

    real = pretrained.load
    monkeypatch.setattr(pretrained, "load", load)
    monkeypatch.setattr(streaming, "ThreadPoolExecutor", Pool)
    video = make_clip(tmp_path / "clip.mp4", seconds=1, sound=tone(1))
    assert main(["segment", str(video), "--out", str(tmp_path / "out"), "--checkpoint", "stamps"]) == 0
    before, behind = stacks
    path = before[before.index("cli/segment.py:_segment") :] + behind
    assert len(path) <= 8 and path[-1] == "inference/predictor.py:segment", path
