"""`icf compare` on finished and unfinished runs, and on folders that are no runs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from icf_avs.__main__ import main
from icf_avs.training.compare import differing, page, read_run, table


def run_folder(folder: Path, config: dict[str, Any], lines: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps({"config": config}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A run with validation scores, and one with a single step and another loss term."""
    steps = [{"step": step, "stage": "train", "seconds": 6.0 * step, "loss": 2.0 - step / 10} for step in (0, 10)]
    scored = [*steps, {"step": 10, "stage": "validation", "seconds": 66.0, "score": 0.51234}]
    begun = [{"step": 0, "stage": "train", "seconds": 1.0, "loss": 3.0, "<b>": 1.0}]
    return [
        run_folder(tmp_path / "plain", {"name": "a", "seed": 0, "icf": None, "model": {"dim": 64}}, scored),
        run_folder(tmp_path / "wide", {"name": "b", "seed": 0, "icf": {"mit": 1}, "model": {"dim": 128}}, begun),
    ]


def test_the_table_has_scores_and_what_differs(runs: list[Path]) -> None:
    found = [read_run(folder) for folder in runs]
    assert differing(found) == ["model.dim", "icf.mit"]
    heading, rows = table(found)
    assert heading == ["run", "steps", "minutes", "score", "model.dim", "icf.mit"]
    assert rows == [["plain", "11", "1.1", "0.5123", "64", ""], ["wide", "1", "0.0", "", "128", "1"]]


def test_the_page_draws_every_term(runs: list[Path]) -> None:
    text = page([read_run(folder) for folder in runs])
    parts = [part.partition("</figure>")[0] for part in text.split("<figure>")[1:]]
    figures = [ET.fromstring(f"<figure>{part}</figure>") for part in parts]
    captions = [figure.findtext("figcaption") for figure in figures]
    assert captions[0] == "loss: 1 to 3, 10 steps" and captions[1].startswith("validation: score")
    assert captions[2].startswith("<b>: 1")
    lines = figures[0].findall("svg/polyline")
    assert [line.get("points") for line in lines] == ["0.0,80.0 300.0,160.0", "0.0,0.0"]
    assert len({line.get("stroke") for line in lines}) == 2


def test_the_command_prints_and_writes(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with (runs[0] / "metrics.jsonl").open("a") as log:
        log.write('{"step": 2')  # being written
    out = tmp_path / "compare.html"
    assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
    assert "plain" in capsys.readouterr().out and out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", None, "cannot be read"),
        ("metrics.jsonl", "", "no step yet"),
        ("metrics.jsonl", '{"step": 1}\n', "line 1: not a line of a training log"),
        ("metrics.jsonl", "[1]\n", "line 1: not a line of a training log"),
        ("recipe.json", "{}", "name a folder of `icf train`"),
    ],
)
def test_invalid_runs_give_a_one_line_error(name: str, content: str | None, said: str, runs: list, capsys) -> None:
    path = runs[0] / name
    path.unlink() if content is None else path.write_text(content)
    assert main(["compare", *map(str, runs)]) == 2
    message = capsys.readouterr().err
    assert said in message and str(path) in message and len(message.strip().splitlines()) == 1
