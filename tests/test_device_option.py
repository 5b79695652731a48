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
from icf_avs.batch.job import Job, JobSettings
from icf_avs.cli.parser import build_parser
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.provenance import hardware
from icf_avs.training.accelerator import processes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Simulate a number of NVIDIA GPUs, and Apple's GPU."""

    def has(gpus: int, apple: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        for name in ("is_available", "is_built"):
            monkeypatch.setattr(torch.backends.mps, name, lambda: apple)

    return has


@pytest.mark.parametrize(
    ("gpus", "apple", "name", "found"),
    [
        (0, False, "auto", "cpu"), (0, True, "auto", "mps"), (2, False, "auto", "cuda"), (2, False, "cpu", "cpu"),
        (2, False, "cuda", "cuda"), (2, False, "cuda:1", "cuda:1"), (0, True, "mps", "mps"), (0, True, "cpu", "cpu"),
    ],
)  # fmt: skip
def test_device_names(gpus: int, apple: bool, name: str, found: str, machine) -> None:
    machine(gpus, apple)
    assert find_device(name) == torch.device(found)
    assert find_device(torch.device(found)) == torch.device(found)


@pytest.mark.parametrize(
    ("gpus", "name"),
    [(0, "cuda"), (0, "cuda:0"), (2, "cuda:2"), (2, "cuda:-1"), (2, "mps"), (1, "gpu"), (1, ""), (1, "CUDA"),
     (1, "cuda:01"), (1, "meta"), (1, "cpu:0"), (1, "x" * 999)],
)  # fmt: skip
def test_missing_devices_give_a_one_line_error(gpus: int, name: str, machine) -> None:
    machine(gpus)
    with pytest.raises(UserError, match=r"choose auto or one of .*cpu$") as caught:
        find_device(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_load_takes_a_device(machine) -> None:
    assert icf_avs.load("stamps", device="cpu").model.device == torch.device("cpu")
    machine(0)
    with pytest.raises(UserError, match="not on this machine"):
        icf_avs.load("stamps", device="cuda")


COMPUTING = ("segment {video} --out {out}", "demo --out {out}", "live {video}", "serve",
             "train stamps-quick --out {out}", "evaluate", "evaluate --robustness")  # fmt: skip


def test_every_computing_command_takes_a_device() -> None:
    """`export` runs on the CPU; the other commands compute nothing."""
    takes = {part.prog for part in parsers(build_parser()) if any(a.dest == "device" for a in part._actions)}
    assert takes == {f"icf {line.split()[0]}" for line in COMPUTING}


@pytest.mark.parametrize("line", COMPUTING)
def test_a_missing_device_is_refused_first(line: str, machine, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    machine(1)
    video = make_clip(tmp_path / "clip.mp4", sound=tone(1.0), seconds=1.0) if "{video}" in line else ""
    words = line.format(video=video, out=tmp_path / "out").split()
    assert main([*words, "--device", "cuda:7"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told == ["icf: error: device 'cuda:7': not on this machine; choose auto or one of cuda, cuda:0, cpu"]
    assert not (tmp_path / "out").exists()


def test_a_manifest_passes_the_device_to_its_processes(machine, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The device is not part of a result's record: another device does not redo it."""
    video = make_clip(tmp_path / "clip.mp4", sound=tone(1.0), seconds=1.0)
    (tmp_path / "videos.csv").write_text("video\nclip.mp4\n")
    command = ["segment", "--manifest", str(tmp_path / "videos.csv"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    command += ["--checkpoint", "stamps"]
    assert main([*command, "--device", "cuda"]) == 2
    assert "not on this machine" in capsys.readouterr().err
    assert main([*command, "--device", "cpu"]) == 0
    assert "1 done now" in capsys.readouterr().out
    settings = [JobSettings(None, "", 1.0, 0.5, False, None, device=device) for device in ("cpu", "cuda")]
    one, other = (Job("clip.mp4", video, tmp_path, each).record for each in settings)
    assert one == other


@pytest.fixture
def unsettled(monkeypatch: pytest.MonkeyPatch):
    """Process state before any training."""
    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield monkeypatch
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("gpus", "apple", "name", "found"),
    [(2, False, "cpu", "cpu"), (2, False, "auto", "cuda"), (2, False, "cuda:1", "cuda:1"), (0, True, "auto", "mps"),
     (0, True, "cpu", "cpu")],
)  # fmt: skip
def test_training_uses_the_device(gpus: int, apple: bool, name: str, found: str, machine, unsettled) -> None:
    machine(gpus, apple)
    assert processes(name).device == processes().device == torch.device(found)
    with pytest.raises(UserError, match="trains on"):
        processes("cpu" if found != "cpu" else "mps" if apple else "cuda")


@pytest.mark.parametrize("name", ["cuda:0", "mps", "gpu"])
def test_accelerate_launch_refuses_a_device(name: str, machine, unsettled) -> None:
    machine(2, True)
    unsettled.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="each process has a GPU of its own"):
        processes(name)


def test_accelerate_launch_on_the_cpu(machine, unsettled) -> None:
    machine(2)
    unsettled.setenv("ACCELERATE_USE_CPU", "true")
    assert processes().device == torch.device("cpu")


def test_hardware_is_that_of_the_device(machine) -> None:
    machine(1)
    assert hardware(torch.device("cpu"))["gpu"] is None and hardware(torch.device("mps"))["gpu"] == "Apple"
