"""Atomic writing of files and folders: permissions, and clean-up after dead processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from clip_maker import make_clip, tone
from small_guided import small_model

from icf_avs.atomic_io import atomic_file, replaced_file, replaced_folder, unfinished_folder, write_text
from icf_avs.checkpoint.serialization import save_checkpoint
from icf_avs.datasets.clip_files import write_bytes
from icf_avs.encoders.weights import released_file
from icf_avs.inference.segment import segment_video
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec, Prediction

HOLD = """
import sys, time
from pathlib import Path
from icf_avs.atomic_io import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    (folder / "big").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def started(*arguments: str | Path) -> subprocess.Popen:
    environment, pipe = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, stdout=pipe, stderr=pipe, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup makes them ignore it
    )  # fmt: skip


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_written_files_follow_the_umask(umask: int, tmp_path: Path) -> None:
    save_checkpoint(small_model(), tmp_path / "model.safetensors", {})
    write_text(tmp_path / "scores.csv", "a\n")
    write_bytes(tmp_path / "picture.png", b"x")
    with atomic_file(tmp_path / "alpha.mov") as new:
        new.write_bytes(b"x")
    source = tmp_path / "served"
    source.write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path))
        patch.delenv("ICF_WEIGHTS_DIR", raising=False)
        released_file("x", source.as_uri(), digest)
    with replaced_folder(tmp_path / "result") as new:
        (new / "masks").mkdir()
        (new / "masks" / "000000.png").write_bytes(b"x")
    for path in tmp_path.rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert not list(tmp_path.rglob(".icf-*"))


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), replaced_file(tmp_path / "a") as new:
        new.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_leftovers_of_dead_processes_only_are_removed(tmp_path: Path) -> None:
    live, dead = started("-c", HOLD, tmp_path), started("-c", HOLD, tmp_path)
    for process in (live, dead):
        assert process.stdout.readline() == "ready\n"
    (tmp_path / ".icf-mine").mkdir()  # an unrelated folder with a similar name
    dead.kill()
    dead.wait()
    assert len(os.listdir(tmp_path)) == 3
    with unfinished_folder(tmp_path) as own, unfinished_folder(tmp_path):
        assert own.is_dir() and len(os.listdir(tmp_path)) == 4  # two of this process, one of the live one, .icf-mine
        assert len(list(tmp_path.glob(".icf-*/new/big"))) == 1
    live.terminate()
    live.wait()
    with unfinished_folder(tmp_path):
        pass
    assert os.listdir(tmp_path) == [".icf-mine"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result folder of `icf segment` with empty masks, beside its video."""
    clip = make_clip(tmp_path_factory.mktemp("result") / "long.mp4", seconds=20, size=(640, 480), sound=tone(20))
    return segment_video(Silent(), clip, clip.parent, fps=1).folder


class Silent(MaskPredictor):
    spec, classes = ClipSpec(), ()

    def predict(self, frames: torch.Tensor, waves: torch.Tensor) -> Prediction:
        return Prediction(torch.full((len(frames), 8, 8), -9.0), torch.zeros(len(frames), 0), ())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_terminated_command_leaves_no_files(number: int, result: Path, tmp_path: Path) -> None:
    """After SIGKILL, the next write into the folder removes the leftovers."""
    out = tmp_path / "out"
    run = started("-m", "icf_avs", "segment", result.parent / "long.mp4", "--out", out, "--checkpoint", "stamps")
    while not list(out.glob(".icf-*/new/masks/*.png")) and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert len(os.listdir(out)) == 1
        write_text(out / "next.txt", "")
        assert os.listdir(out) == ["next.txt"]
    else:
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert (run.returncode, said.splitlines()[-1]) == (128 + number, f"icf: {word}")
        assert os.listdir(tmp_path) == []
