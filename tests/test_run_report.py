"""`icf report RUN`: the page says what the folder says, needs nothing else, and believes no file."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from icf_avs.__main__ import main
from icf_avs.errors import UserError
from icf_avs.results import COLUMNS, save_rows
from icf_avs.run_report.curves import running_mean
from icf_avs.run_report.page import page
from icf_avs.run_report.record import read_run
from icf_avs.training.recipes import RECIPES

HOSTILE = "<script>alert(1)</script>"


def write_run(folder: Path, name: str = "stamps", steps: int = 60) -> Path:
    """A run that is not finished, as `icf train` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"step": s, "stage": "teach", "seconds": s, "naming": 1.5, "loss": 1.5} for s in range(0, steps, 10)]
    rows += [{"step": s, "stage": "learn", "seconds": s, "bce": 1 / s, "loss": 2 / s} for s in range(steps, 400, 10)]
    rows += [{"step": 399, "stage": "validation", "seconds": 9, "score": 0.625, "miou": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"command": f"icf train {name}", "config": asdict(RECIPES["stamps"]()), "revision": "abc1234"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "samples").mkdir()
    for step, level in ((250, 10), (300, 90), (350, 170), (400, 250)):
        Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(folder / "samples" / f"{step:06d}.png")
    return folder


class Seen(HTMLParser):
    """Tags that are open, what they load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def data_of(source: str) -> bytes:
    return base64.b64decode(source.partition("base64,")[2])


def test_the_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "stamps")
    row = dict.fromkeys(COLUMNS, "7") | {"checkpoint": "stamps", "test_set": "ms3", "miou": "0.7654"}
    save_rows(folder / "scores.csv", [row])
    (folder / "other.csv").write_text("a,b\n1,2\n")
    assert main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    seen = Seen((folder / "report.html").read_text(encoding="utf-8"))
    assert "script" not in seen.tags and "link" not in seen.tags
    assert seen.sources and all(source.startswith("data:image/") for source in seen.sources), "it needs nothing else"
    config = RECIPES["stamps"]()
    total = config.teach_steps + config.steps + config.finish
    for words in (
        f"Not finished: 400 of {total} steps",
        "abc1234",
        "config.learning_rate",
        "0.7654",
        "scores.csv",
        "ms3",
    ):
        assert words in seen.text, words
    assert "other.csv" not in seen.text
    svg, *pictures = map(data_of, seen.sources)
    drawn = " ".join(ElementTree.fromstring(svg).itertext())
    for name in ("loss", "naming", "bce", "score", "miou", "teach", "learn", "validation"):
        assert name in drawn, name
    assert [round(np.asarray(Image.open(io.BytesIO(data))).mean(), -1) for data in pictures] == [10, 170, 250]
    assert re.findall(r"after step (\d+)", seen.text) == ["250", "350", "400"]
    assert page(read_run(folder)) == (folder / "report.html").read_text(encoding="utf-8"), "the same page again"


def test_nothing_out_of_a_file_becomes_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", HOSTILE)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 400, "stage": HOSTILE, "seconds": 1, "$\\frac": 1.0, HOSTILE: 2.0}) + "\n")
        log.write(json.dumps({"step": 401, "stage": "learn", "seconds": 1, "loss": float("nan")}) + "\n")
    recipe = json.loads((folder / "recipe.json").read_text()) | {"config": [HOSTILE], HOSTILE: {HOSTILE: HOSTILE}}
    deep: dict = {}
    for _ in range(400):
        deep = {"in": deep}
    recipe["deep"] = deep
    (folder / "recipe.json").write_text(json.dumps(recipe))
    seen = Seen(page(read_run(folder)))
    assert "script" not in seen.tags and HOSTILE in seen.text
    assert HOSTILE in " ".join(ElementTree.fromstring(data_of(seen.sources[0])).itertext())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b'{"step": 1, "loss": "a lot"}\n'),
        ("metrics.jsonl", b"[1]\n"),
        ("metrics.jsonl", b"\xff\xfe\x00\n"),
        ("metrics.jsonl", b'{"step": 1, "loss": 1' + b"0" * 400 + b"}\n"),
        ("metrics.jsonl", b'{"step": 1' + b"0" * 400 + b', "loss": 1}\n'),
        ("scores.csv", ",".join(COLUMNS).encode() + b"\n\xff,1\n"),
        ("recipe.json", b"{"),
        ("recipe.json", b"[" * 100_000),
        ("samples/000400.png", b"no picture"),
        ("stamps.safetensors", b"\x08\0\0\0\0\0\0\0weights!"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "stamps")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(folder / name))) as raised:
        page(read_run(folder))
    assert "\n" not in str(raised.value)


def test_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([str(tmp_path)], "holds no run"),
        ([str(tmp_path / "nowhere")], "holds no run"),
        (["--out", "page.html"], "goes with a run"),
        ([str(tmp_path), "--check"], "takes no RUN"),
    ):
        assert main(["report", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert "No step is logged yet" in page(read_run(tmp_path))


def test_running_mean_by_hand() -> None:
    found = running_mean([0.0, 3.0, 6.0, 3.0, 0.0], 1)
    assert found.tolist() == [0.0, 3.0, 4.0, 3.0, 0.0]
