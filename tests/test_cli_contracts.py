"""Contracts of all commands: usage lines and examples parse as printed; unwritable outputs and settings without effect
are refused in one line before any work.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
from documents import parsers

from icf_avs.__main__ import main
from icf_avs.cli.parser import build_parser
from icf_avs.inference import pretrained

SAMPLES = ("1", "0.5", "x")  # every option type accepts one of them


COMMANDS = {
    parser.prog.removeprefix("icf "): parser for parser in parsers(build_parser()) if parser._subparsers is None
}


def value(action: argparse.Action) -> str:
    if action.choices:
        return str(next(iter(action.choices)))
    for sample in SAMPLES if action.type else SAMPLES[-1:]:
        try:
            action.type(sample)
        except (argparse.ArgumentTypeError, TypeError, ValueError):
            continue
        return sample
    return SAMPLES[-1]


def as_printed(parser: argparse.ArgumentParser, least: bool) -> list[str]:
    """Arguments in the order of the usage line: each option once; `least`: only required ones."""
    usage = parser.format_usage()
    placed = []
    for action in parser._actions:
        names = action.option_strings[:1] or [action.metavar or action.dest]
        if action.dest == "help" or (least and action.option_strings and not action.required):
            continue
        places = [m.start() for m in re.finditer(rf"(?<![\w-]){re.escape(names[0])}(?![\w-])", usage)]
        assert places, (usage, names)
        words = action.option_strings[:1] + ([] if action.nargs == 0 else [value(action)])
        placed.append((places[0] if action.option_strings else places[-1], action, words))
    exclusive = [group._group_actions[1:] for group in parser._mutually_exclusive_groups]
    left_out = {id(action) for group in exclusive for action in group}
    return [word for _, action, words in sorted(placed, key=lambda item: item[0]) if id(action) not in left_out
            for word in words]  # fmt: skip


@pytest.mark.parametrize("least", [True, False], ids=["least", "everything"])
@pytest.mark.parametrize("command", COMMANDS)
def test_usage_lines_work_as_printed(command: str, least: bool):
    words = as_printed(COMMANDS[command], least)
    found = vars(build_parser().parse_args([*command.split(), *words]))
    for action in COMMANDS[command]._actions:
        if not action.option_strings and action.nargs != "*":
            assert found[action.dest] not in (None, []), f"icf {command} {shlex.join(words)}"


def test_a_value_after_a_list_is_an_argument():
    parse = build_parser().parse_args
    assert parse(["convert", "--to", "coco", "srt", "out/street"]).folder == Path("out/street")
    found = parse(["evaluate", "--sets", "s4", "ms3", "best.safetensors", "--clips", "3"])
    assert (found.checkpoint, found.sets, found.clips) == ("best.safetensors", ["s4", "ms3"], 3)
    for wrong in ("evaluate --sets s5", "evaluate a.safetensors --sets s4 s5", "convert --to coco"):
        with pytest.raises(SystemExit):
            parse(wrong.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_work_as_printed(command: str):
    text = COMMANDS[command].epilog.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if re.match(r"  (\w+=\S+ )*icf ", line)]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[words.index("icf") + 1 :]
        words = words[: words.index(">")] if ">" in words else words
        assert build_parser().parse_args(words).run


RANGES = ("serve --port 65536", "serve --port 0", "serve --max-mb 99999999", "evaluate --size 100000",
          "data stamps --out o --test 1000001", "data compose --pictures p --sounds s --out o --sources 0",
          "data prepare d --workers 100000", "evaluate --seed -1", "train stamps --workers 0", "train stamps --steps 0",
          "train stamps --pretrain-steps 999999999")  # fmt: skip


@pytest.mark.parametrize("line", RANGES)
def test_numbers_have_a_range(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        build_parser().parse_args(line.split())
    assert "want an integer" in capsys.readouterr().err


# Command lines with {} for the output path, and its kind. Inputs do not exist: the output is checked first.
OUTPUTS = {
    "segment": ("segment nothing.mp4 --out {}", "folder"),
    "segment --manifest": ("segment --manifest nothing.csv --out {}", "folder"),
    "demo": ("demo --out {}", "folder"),
    "evaluate": ("evaluate nothing.safetensors --data nothing --out {}", "file"),
    "evaluate --robustness": ("evaluate nothing.safetensors --robustness --data nothing --out {}", "file"),
    "export": ("export stamps --out {}", "folder"),
    "compare": ("compare nothing --out {}", "file"),
    "data stamps": ("data stamps --test 1 --out {}", "folder"),
    "data compose": ("data compose --pictures nothing --sounds nothing --out {}", "folder"),
    "train": ("train stamps-quick --out {}", "folder"),
}


def bad_places(kind: str) -> dict[str, str]:
    """Unwritable paths by reason; the test makes the files that they need."""
    places = {"below a file": "file/x", "/proc": "/proc/x/y", "a name too long": "n" * 300, "a dangling link": "link/x"}
    return places | ({"a file": "file"} if kind == "folder" else {"a folder": "folder", "a device": "/dev/null"})


@pytest.mark.parametrize("command", OUTPUTS)
def test_unwritable_outputs_are_refused_in_one_line(command: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: pytest.fail("work has begun"))
    for name in ("folder", "run"):
        Path(name).mkdir()
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere")
    line, kind = OUTPUTS[command]
    for what, place in bad_places(kind).items():
        assert main(line.format(place).split()) == 2, what
        printed = capsys.readouterr().err
        told = printed.count("\n") == 1 and place.split("/")[0] in printed
        assert told and ("name another" in printed or "name a file" in printed), (what, printed)
    assert Path("file").read_text() == "mine"
    assert {path.name for path in Path().iterdir()} == {"folder", "run", "file", "link"}


def test_all_commands_with_outputs_are_in_outputs():
    for command, parser in COMMANDS.items():
        if any(action.dest == "out" for action in parser._actions):
            assert command in OUTPUTS


@pytest.mark.parametrize(("to", "name"), [("coco", "coco.json"), ("srt", "sounds.srt")])
def test_a_conversion_replaces_no_folder(to: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / name).mkdir()
    assert main(["convert", str(tmp_path), "--to", to]) == 2
    assert f"{tmp_path / name}: is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["README.md", "stamps.onnx"])
def test_an_export_replaces_no_foreign_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = tmp_path / name
    place.mkdir() if name.endswith("onnx") else place.write_text("# My project\n")
    assert main(["export", "stamps", "--out", str(tmp_path)]) == 2
    assert str(place) in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == [name]


NO_EFFECT = {
    "data stamps --out o --train 0 --val 0 --test 0 --cross 0": "no clip is asked for",
    "segment --jobs 2 a.mp4 --out o": "go with --manifest",
    "evaluate --data own --sets s4 --out s.csv": "a set of your own",
    "evaluate --robustness --data own --sets s4 ms3 --out o": "a set of your own",
    "evaluate --robustness --threshold 0.4": "takes no --threshold",
}


@pytest.mark.parametrize("line", NO_EFFECT)
def test_settings_without_effect_are_refused(line: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("own/videos", "own/masks"):
        Path(name).mkdir(parents=True)
    assert main(line.split()) == 2
    assert NO_EFFECT[line] in capsys.readouterr().err


MISSPELT = {
    "segmnt a.mp4": "no command 'segmnt'; did you mean segment?",
    "data chek x": "no command 'chek'; did you mean check? `icf data --help`",
    "train s4-pvtt --data x": "no recipe 's4-pvtt'; did you mean s4-pvt?",
    "segment a.mp4 --out o --checkpoint natual": "natual: no such checkpoint; did you mean natural?",
    "evaluate --clips x": "'x': want an integer of at least 1",
    "evaluate --clips 0": "'0': want an integer of at least 1",
    "segment a.mp4 --out o --threshold 1": "'1': want a number above 0 and below 1",
    "segment a.mp4 --out o --treshold 0.3": "unrecognized arguments: --treshold 0.3; did you mean --threshold? see",
    "words dog": "icf words: error: unrecognized arguments: dog; see `icf words --help`",
    "segment a.mp4": "icf segment: error: the following arguments are required: --out; see `icf segment --help`",
}


@pytest.mark.parametrize("line", MISSPELT)
def test_misspelt_words_get_a_suggestion(line: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").touch()
    try:
        assert main(line.split()) == 2
    except SystemExit as stop:
        assert stop.code == 2
    printed = capsys.readouterr().err
    assert MISSPELT[line] in printed and printed.count("\n") == 1


@pytest.mark.parametrize("line", ["", "data"])
def test_without_a_command_help_is_shown(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert not stop.value.code and "commands:" in capsys.readouterr().out


OLD = {
    "train s4-pvt --sound=wav": "--sound is now --audio-source",
    "train s4-pvt --audio vggish": "--audio is now --audio-encoder",
    "train s4-pvt --visual swin-b": "--visual is now --visual-encoder",
    "train s4-pvt --text clip": "--text is now --text-encoder",
    "-q probe stamps --clips 3": "probe is now `icf evaluate --robustness`",
    "data compose --pictures p --sounds s --audio a --out o": "--audio is now --audio-dir",
}


@pytest.mark.parametrize("line", OLD)
def test_options_of_earlier_versions_name_the_new_one(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.count("\n") == 1 and OLD[line] in printed
