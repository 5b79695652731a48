"""The command line, mostly as a separate process."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

import icf_avs.__main__ as cli
from icf_avs import demo
from icf_avs.console import NORMAL, VERBOSE, note, progress_console, set_verbosity
from icf_avs.errors import UserError

COMMANDS = ("segment", "train", "evaluate", "data", "demo", "convert")


def icf(*args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "icf_avs", *args], capture_output=True, text=True, **options)


def test_help_is_fast_and_imports_nothing_heavy():
    started = time.perf_counter()
    done = icf("--help")
    seconds = time.perf_counter() - started
    assert done.returncode == 0 and seconds < 2  # 0.1 s on an idle machine
    assert all(command in done.stdout for command in COMMANDS)
    code = "import sys, icf_avs.__main__ as m; m.build_parser(); print({'torch','numpy','av','PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


WRONG = ("-v", "sing", "segment a.mp4 --out o --fps 0", "segment a.mp4 --out o --fps nan",
         "segment a.mp4 --out o --threshold 1.5", "evaluate --sets s5", "data stamps --out o --test -1")  # fmt: skip


@pytest.mark.parametrize("line", WRONG)  # more in test_cli_contracts.py
def test_wrong_command_lines(line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_version():
    done = icf("--version")
    assert done.returncode == 0 and done.stdout.startswith("icf ")


def test_a_user_error_is_one_line_and_code_2(tmp_path: Path):
    done = icf("evaluate", "no.safetensors", cwd=tmp_path, env={"PYTHONPATH": str(Path(cli.__file__).parents[1])})
    assert done.returncode == 2
    assert done.stderr.startswith("icf: error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(UserError("two\nlines"), 2, r"two\nlines"), (KeyboardInterrupt(), 130, "interrupted"),
     (OSError(errno.ENOSPC, "No space left on device", "x.png"), 2, "no space left on the disk (x.png)"),
     (PermissionError(errno.EACCES, "Permission denied", "/o"), 2, "not permitted to write or read (/o)")],
    ids=["user error", "interrupt", "full disk", "permission"],
)  # fmt: skip
def test_errors_have_one_line_and_an_exit_code(error, code, words, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr(demo, "demo_command", fail)
    assert cli.main(["demo"]) == code
    printed = capsys.readouterr().err
    assert words in printed and printed.count("\n") == 1


def test_verbosity(monkeypatch, capsys):
    """-q: neither notes nor bars; -v: more notes, and where an error arose; before or after the command."""

    def run(*args):
        note("usual")
        note("more", VERBOSE)
        progress_console().print("bar")
        raise UserError("wrong")

    monkeypatch.setattr(demo, "demo_command", run)
    for line, shown in (("demo", 3), ("-q demo", 1), ("demo --quiet", 1), ("demo -v", 4), ("-v demo", 4)):
        assert cli.main(line.split()) == 2
        lines = capsys.readouterr().err.splitlines()
        assert ("usual" in lines, "more" in lines, "bar" in lines) == (shown > 1, shown > 3, shown > 1), line
        assert lines[-1] == "icf: error: wrong" and (len(lines) == shown or (shown == 4 and "Traceback" in lines[3]))
    set_verbosity(NORMAL)


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(demo, "demo_command", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_a_closed_pipe_is_quiet():
    code = (
        "import sys, icf_avs.__main__ as m, icf_avs.demo as demo\n"
        "def talk(*args):\n    for i in range(100000): print('line', i)\n"
        "demo.demo_command = talk\nsys.exit(m.main(['demo']))"
    )
    pipe = f'"{sys.executable}" -c "$CODE" | head -n 1; echo "${{PIPESTATUS[0]}}"'
    environment = {"CODE": code, "PYTHONPATH": str(Path(cli.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["line 0", "141"] and done.stderr == ""
