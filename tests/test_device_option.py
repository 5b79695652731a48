"""`--device`: which devices are found, and a one-line error for missing ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from clip_maker import make_clip, tone
from documents import parsers

import icf_avs
from icf_avs.__main__ import main
from icf_avs.cli.parser import build_parser
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.training.accelerator import processes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Simulate a number of NVIDIA GPUs, and Apple's GPU, before any training in this process."""

    def has(gpus: int, apple: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        for name in ("is_available", "is_built"):
            monkeypatch.setattr(torch.backends.mps, name, lambda: apple)

    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # accelerate sets it; undone afterwards
    AcceleratorState._reset_state(reset_partial_state=True)
    yield has
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("gpus", "apple", "name", "found"),
    [(0, False, "auto", "cpu"), (0, True, "auto", "mps"), (2, False, "auto", "cuda"), (2, False, "cpu", "cpu"),
     (2, False, "cuda:1", "cuda:1"), (0, True, "cpu", "cpu")],
)  # fmt: skip
def test_commands_and_training_use_the_device(gpus: int, apple: bool, name: str, found: str, machine) -> None:
    machine(gpus, apple)
    assert find_device(name) == find_device(torch.device(found)) == torch.device(found)
    assert processes(name).device == processes().device == torch.device(found)
    if gpus or apple:
        with pytest.raises(UserError, match="trains on"):
            processes("cpu" if found != "cpu" else "mps" if apple else "cuda")


@pytest.mark.parametrize(("gpus", "name"), [(0, "cuda"), (2, "cuda:2"), (2, "mps"), (1, "cuda:01"), (1, "x" * 999)])
def test_missing_devices_give_a_one_line_error(gpus: int, name: str, machine) -> None:
    machine(gpus)
    with pytest.raises(UserError, match=r"choose auto or one of .*cpu$") as caught:
        find_device(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(UserError, match="not on this machine"):
        icf_avs.load("stamps", device=name)


COMPUTING = ("segment {video} --out {out}", "segment --manifest {table} --out {out} --checkpoint stamps",
             "demo --out {out}", "live {video}", "serve", "train stamps-quick --out {out}", "evaluate",
             "evaluate --robustness")  # fmt: skip


def test_computing_commands_refuse_a_missing_device_first(machine, tmp_path: Path, capsys) -> None:
    takes = {part.prog for part in parsers(build_parser()) if any(a.dest == "device" for a in part._actions)}
    assert takes == {f"icf {line.split()[0]}" for line in COMPUTING}
    machine(1)
    video, table = make_clip(tmp_path / "clip.mp4", sound=tone(1.0), seconds=1.0), tmp_path / "videos.csv"
    table.write_text("video\nclip.mp4\n")
    for line in COMPUTING:
        words = line.format(video=video, table=table, out=tmp_path / "out").split()
        assert main([*words, "--device", "cuda:7"]) == 2, line
        told = capsys.readouterr().err.strip().splitlines()
        assert told == ["icf: error: device 'cuda:7': not on this machine; choose auto or one of cuda, cuda:0, cpu"]
        assert not (tmp_path / "out").exists(), line


def test_accelerate_launch_assigns_the_devices(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(2, True)
    with monkeypatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        with pytest.raises(UserError, match="each process has a GPU of its own"):
            processes("cuda:0")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert processes().device == torch.device("cpu")
