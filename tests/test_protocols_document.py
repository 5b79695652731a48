"""docs/PROTOCOLS.md: every row of "Who scores how" ends with a command that runs, or links to correct Python."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from documents import blocks, read, run_shell, understood
from listener import Listener, loads
from metric_oracles import oracle_reference

from icf_avs.evaluation.test_sets import FOLDERS
from icf_avs.score_tables import SCORES
from icf_avs.types import ClipSpec

TEXT = read("docs/PROTOCOLS.md")
SECTION = TEXT.split("## Who scores how\n")[1].split("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in SECTION.splitlines() if line[:2] == "| "]
COMMANDS = {row[0]: row[-1].strip("` |") for row in ROWS[1:] if "`" in row[-1]}
SNIPPETS = {block.heading: block.code for block in blocks(SECTION) if block.language == "python"}
RUN = sorted({command for command in COMMANDS.values() if "train" not in command and "avss" not in command})


def test_every_row_ends_with_a_command_or_with_python():
    assert len(ROWS) == 17 and {len(row) for row in ROWS} == {4}
    links = {row[-1].strip(" |") for row in ROWS[1:] if row[0] not in COMMANDS}
    assert links == {f"[{name}](#{name.lower().replace(',', '').replace(' ', '-')})" for name in SNIPPETS}
    assert len(links) == 2
    for command in set(COMMANDS.values()):
        args = understood(command)
        assert callable(args.run) and args.data.parts[0] == "AVSBench", command
        assert len(args.data.parts) == 1 or args.data.name in FOLDERS.values(), command


@pytest.fixture
def folder(tiny, tmp_path, monkeypatch):
    """A folder with AVSBench/, and a patched model that segments the tiny sets by their tones."""
    tiny.root = tmp_path / "AVSBench/Single-source"
    tiny.s4("test", ["dog_barking", "playing_piano"])
    tiny.root = tmp_path / "AVSBench/Multi-sources"
    tiny.ms3("test", 1)
    monkeypatch.chdir(tmp_path)
    loads(Listener(ClipSpec()), monkeypatch, "listener")
    return tmp_path


def test_the_commands_write_the_rows_that_the_table_names(folder):
    for command in RUN:
        run_shell(command)
    written = {(row["test_set"], row["protocol"]) for row in SCORES.read(folder / "results/avsbench.csv")}
    assert {test_set for test_set, _ in written} == {"s4", "ms3", "s4-512", "ms3-512", "s4-native", "ms3-native"}
    assert ("s4", "reference-b1-t0.4") in written and (folder / "results/probe-avsbench.csv").is_file()
    known = {name for pair in written for name in pair}  # the protocols and test sets named in the table exist
    named = re.findall(r"`((?:reference|strict|dataset)[\w.-]*|s4-\w+|ms3-\w+)`", " ".join(row[2] for row in ROWS[1:]))
    assert len(named) > 5 and not set(named) - known


def made(seed: int, *shapes: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    """Three clips: random logits of the given shapes, and truth, empty in part of the second clip."""
    rng = np.random.default_rng(seed)
    clips = [(*(rng.normal(size=shape).astype(np.float32) for shape in shapes), np.float32(rng.random((5, 8, 9)) < 0.4))
             for _ in range(3)]  # fmt: skip
    clips[1][-1][2:] = 0
    return clips


def check(snippet: str, clips: list, marked_and_probability: Callable) -> None:
    """A snippet gives the mean over clips of the IoU of its masks and of the maximum of F."""
    names = {"clips": [tuple(map(torch.from_numpy, clip)) for clip in clips]}
    exec(SNIPPETS[snippet], names)
    found = [(*marked_and_probability(*logits), truth) for *logits, truth in clips]
    miou, _ = oracle_reference([(marked, truth) for marked, _, truth in found], batch_size=1, threshold=0.5)
    _, f = oracle_reference([(p, truth) for _, p, truth in found], batch_size=1, threshold=0.5)
    assert (names["miou"], names["f"]) == pytest.approx((miou, f), abs=1e-6)


def test_python_for_two_logits():
    clips = made(0, (5, 2, 8, 9))
    check("Python, two logits", clips, lambda x: (x[:, 1] > x[:, 0], 1 / (1 + np.exp(x[:, 0] - 2 * x[:, 1]))))


def test_python_for_sums_over_queries():
    def sums(classes: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shares = np.exp(classes) / np.exp(classes).sum(-1, keepdims=True)
        background, thing = ((shares[..., c, None, None] / (1 + np.exp(-masks))).sum(1) for c in (0, 1))
        return thing > background, 1 / (1 + np.exp(background - thing))

    check("Python, sums over queries", made(1, (5, 6, 3), (5, 6, 8, 9)), sums)
