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
from clip_maker import make_clip, tone
from small_guided import small_model

from icf_avs.atomic_io import replaced_file, replaced_folder, unfinished_folder, write_text
from icf_avs.checkpoint.serialization import save_checkpoint


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(small_model(), tmp_path / "model.safetensors", {})
        write_text(tmp_path / "x", "x")
        with replaced_folder(tmp_path / "result") as new:
            (new / "masks").mkdir()
            (new / "masks" / "000000.png").write_bytes(b"x")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def test_a_failed_write_keeps_the_old_file_and_folders_in_use_stay(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), replaced_file(tmp_path / "a") as new:
        new.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]
    (tmp_path / ".icf-mine").mkdir()  # an unrelated folder with a similar name
    with unfinished_folder(tmp_path) as own, unfinished_folder(tmp_path):
        assert own.is_dir() and len(os.listdir(tmp_path)) == 4
    assert sorted(os.listdir(tmp_path)) == [".icf-mine", "a"]


OTHERS = [pytest.param(number, marks=pytest.mark.full) for number in (signal.SIGKILL, signal.SIGHUP, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *OTHERS])
def test_a_terminated_command_leaves_no_files(number: int, tmp_path: Path) -> None:
    """After SIGKILL, the next write into the folder removes the leftovers."""
    out, video = tmp_path / "out", make_clip(tmp_path / "long.mp4", seconds=20, size=(640, 480), sound=tone(20))
    command = [sys.executable, "-m", "icf_avs", "segment", video, "--out", out, "--checkpoint", "stamps"]
    run = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup makes them ignore it
    )  # fmt: skip
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
        assert os.listdir(tmp_path) == ["long.mp4"]
