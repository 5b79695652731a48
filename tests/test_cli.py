"""The command line: help, exit codes, one-line errors, refusal of unusable settings and outputs; and `icf compare`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from documents import commands, parsers, understood
from hypothesis import example, given
from hypothesis import strategies as st

import icf_avs.__main__ as cli
from icf_avs import demo
from icf_avs.cli.parser import build_parser
from icf_avs.console import NORMAL, VERBOSE, note, progress_console, set_verbosity
from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.training.compare import read_run, table

COMMANDS: dict[str, argparse.ArgumentParser] = {
    parser.prog.removeprefix("icf "): parser for parser in parsers(build_parser()) if parser._subparsers is None
}


def test_help_is_fast_and_imports_nothing_heavy():
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "icf_avs", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and os.times().children_user - before.children_user < 2  # 0.1 s on an idle machine
    assert all(command.split()[0] in done.stdout for command in COMMANDS)
    code = "import sys, icf_avs.__main__ as m; m.build_parser(); print({'torch','numpy','av','PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_work_as_printed(command: str):
    lines = [line for line in commands(COMMANDS[command].epilog) if re.match(r"(\w+=\S+ )*icf ", line)]
    assert lines and all(understood(line[line.index("icf ") :]).run for line in lines)


def test_a_value_after_a_list_is_an_argument():
    parse = build_parser().parse_args
    assert parse(["convert", "--to", "coco", "srt", "out/street"]).folder == Path("out/street")
    found = parse(["evaluate", "--sets", "s4", "ms3", "best.safetensors", "--clips", "3"])
    assert (found.checkpoint, found.sets, found.clips) == ("best.safetensors", ["s4", "ms3"], 3)


REFUSED = {  # command lines and a part of their error
    "segmnt a.mp4": "no command 'segmnt'; did you mean segment?",
    "train s4-pvtt --data x": "no recipe 's4-pvtt'; did you mean s4-pvt?",
    "segment a.mp4 --out o --checkpoint natual": "natual: no such checkpoint; did you mean natural?",
    "segment a.mp4 --out o --treshold 0.3": "unrecognized arguments: --treshold 0.3; did you mean --threshold? see",
    "segment a.mp4": "icf segment: error: the following arguments are required: --out; see `icf segment --help`",
    "evaluate no.safetensors": "no.safetensors: no such checkpoint",
    "evaluate --clips x": "'x': want an integer of at least 1",
    "serve --port 65536": "'65536': want an integer from 1 to 65535",
    "segment a.mp4 --out o --threshold 1": "'1': want a number above 0 and below 1",
    "segment --out o": "no video to segment",
    "segment a.mp4 --manifest m.csv --out o": "not both",
    "segment --jobs 2 a.mp4 --out o": "go with --manifest",
    "data stamps --out o --train 0 --val 0 --test 0 --cross 0": "no clip is asked for",
    "evaluate --data own --sets s4 --out s.csv": "a set of your own",
    "train s4-pvt --sound=wav": "--sound is now --audio-source",
    "-q probe stamps --clips 3": "probe is now `icf evaluate --robustness`",
}


@pytest.mark.parametrize("line", REFUSED)
def test_unusable_words_are_refused_in_one_line(line: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("own/videos", "own/masks"):
        Path(name).mkdir(parents=True)
    Path("a.mp4").touch()
    try:
        code = cli.main(line.split())
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr().err
    assert code == 2 and REFUSED[line] in printed and printed.count("\n") == 1


# Command lines with {} for the output path. Inputs do not exist: the output is checked first.
OUTPUTS = {
    "segment": "segment nothing.mp4 --out {}",
    "segment --manifest": "segment --manifest nothing.csv --out {}",
    "demo": "demo --out {}",
    "evaluate": "evaluate nothing.safetensors --data nothing --out {}",
    "evaluate --robustness": "evaluate nothing.safetensors --robustness --data nothing --out {}",
    "export": "export stamps --out {}",
    "compare": "compare nothing --out {}",
    "data stamps": "data stamps --test 1 --out {}",
    "data compose": "data compose --pictures nothing --sounds nothing --out {}",
    "train": "train stamps-quick --out {}",
}
WRITING = [name for name, parser in COMMANDS.items() if any(action.dest == "out" for action in parser._actions)]


@pytest.mark.parametrize("command", sorted({*WRITING, *OUTPUTS}))
def test_unwritable_outputs_are_refused_in_one_line(command: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: pytest.fail("work has begun"))
    Path("folder").mkdir()
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere")
    others = ["folder", "/dev/null"] if command.startswith(("evaluate", "compare")) else ["file"]
    for place in ("file/x", "/proc/x/y", "n" * 300, "link/x", *others):
        assert cli.main(OUTPUTS[command].format(place).split()) == 2, place
        printed = capsys.readouterr().err
        told = printed.count("\n") == 1 and place.split("/")[0] in printed
        assert told and ("name another" in printed or "name a file" in printed), (place, printed)
    assert Path("file").read_text() == "mine"
    assert {path.name for path in Path().iterdir()} == {"folder", "file", "link"}


@pytest.mark.parametrize(
    ("line", "name"),
    [("convert {} --to coco", "coco.json"), ("convert {} --to srt", "sounds.srt"),
     ("export stamps --out {}", "README.md"), ("export stamps --out {}", "stamps.onnx")],
)  # fmt: skip
def test_foreign_files_are_not_replaced(line: str, name: str, tmp_path: Path, capsys):
    place = tmp_path / name
    place.write_text("# My project\n") if name == "README.md" else place.mkdir()
    assert cli.main(line.format(tmp_path).split()) == 2
    assert str(place) in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == [name]


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


@pytest.mark.full
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


@given(st.text())
@example("clip\nname\x1b[2J\x00\u2028.wav")
@example("Süden 東 'quoted'")
def test_the_message_is_one_printable_line(text: str) -> None:
    line = str(UserError(text))
    assert line.isprintable() and len(line.splitlines()) <= 1
    if text.isprintable():
        assert line == text


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A run with validation scores, and one whose second step is being written, with another loss term."""
    steps = [{"step": step, "stage": "train", "seconds": 6.0 * step, "loss": 2.0 - step / 10} for step in (0, 10)]
    steps.append({"step": 10, "stage": "validation", "seconds": 66.0, "score": 0.51234})
    begun = '{"step": 0, "stage": "train", "seconds": 1.0, "loss": 3.0, "<b>": 1.0}\n{"step": 2'
    config = {"name": "a", "seed": 0, "icf": None, "model": {"dim": 64}}
    other = {"name": "b", "seed": 0, "icf": {"mit": 1}, "model": {"dim": 128}}
    logs = ("plain", config, "".join(json.dumps(line) + "\n" for line in steps)), ("wide", other, begun)
    for name, settings, log in logs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(json.dumps({"config": settings}))
        (tmp_path / name / "metrics.jsonl").write_text(log)
    return [tmp_path / "plain", tmp_path / "wide"]


def test_table_and_page(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    heading, rows = table([read_run(folder) for folder in runs])
    assert heading == ["run", "steps", "minutes", "score", "model.dim", "icf.mit"]
    assert rows == [["plain", "11", "1.1", "0.5123", "64", ""], ["wide", "1", "0.0", "", "128", "1"]]
    out = tmp_path / "compare.html"
    assert cli.main(["compare", *map(str, runs), "--out", str(out)]) == 0
    page = out.read_text()
    assert "plain" in capsys.readouterr().out and page.startswith("<!doctype html>")
    figures = [ET.fromstring(figure) for figure in re.findall("<figure>.*?</figure>", page, re.DOTALL)]
    captions = [figure.findtext("figcaption").partition(":")[0] for figure in figures]
    assert captions[:3] == ["loss", "validation", "<b>"] and "loss: 1 to 3, 10 steps" in page
    lines = {line.get("points"): line.get("stroke") for line in figures[0].findall("svg/polyline")}
    assert [*lines] == ["0.0,80.0 300.0,160.0", "0.0,0.0"] and len({*lines.values()}) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("metrics.jsonl", "", "no step yet"), ("metrics.jsonl", "[1]\n", "line 1: not a line of a training log"),
     ("metrics.jsonl", None, "cannot be read"), ("recipe.json", "{}", "name a folder of `icf train`")],
)  # fmt: skip
def test_invalid_runs_give_a_one_line_error(name: str, content: str | None, said: str, runs: list, capsys) -> None:
    path = runs[0] / name
    path.unlink() if content is None else path.write_text(content)
    assert cli.main(["compare", *map(str, runs)]) == 2
    message = capsys.readouterr().err
    assert said in message and str(path) in message and message.count("\n") == 1
