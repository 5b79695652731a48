"""docs/PROTOCOLS.md: every row of "Who scores how" ends with a command that runs, or links to correct Python."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from documents import blocks, read, run_shell, understood
from listener import Listener, loads

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
    links = {row[0]: row[-1].strip(" |") for row in ROWS[1:] if row[0] not in COMMANDS}
    anchors = {f"[{name}](#{name.lower().replace(',', '').replace(' ', '-')})" for name in SNIPPETS}
    assert set(links.values()) == anchors and len(anchors) == 2
    assert len(COMMANDS) + len(links) == len(ROWS) - 1


@pytest.mark.parametrize("command", sorted(set(COMMANDS.values())))
def test_every_command_is_parsed(command):
    args = understood(command)
    assert callable(args.run)
    assert args.data.parts[0] == "AVSBench" and (len(args.data.parts) == 1 or args.data.name in FOLDERS.values())


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
    named = {"reference", "strict", "dataset", "dataset-2classes", "reference-b1", "reference-t0.4"}
    assert {protocol for test_set, protocol in written if test_set == "s4"} >= {*named, "reference-b1-t0.4"}
    assert {test_set for test_set, _ in written} == {"s4", "ms3", "s4-512", "ms3-512", "s4-native", "ms3-native"}
    assert (folder / "results/probe-avsbench.csv").is_file()
    for row in ROWS[1:]:  # the protocols and test sets named in the table exist
        for name in re.findall(r"`((?:reference|strict|dataset)[\w.-]*)`", row[2]):
            assert name in {protocol for _, protocol in written}, name
        for name in re.findall(r"`(s4-\w+|ms3-\w+)`", row[2]):
            assert name in {test_set for test_set, _ in written}, name


def curve_maximum(p: np.ndarray, truth: np.ndarray) -> float:
    """Maximum over 255 thresholds of the mean F over the sounding frames of one clip; 0 if nothing sounds."""
    curves = []
    for frame, g in zip(p, truth, strict=True):
        if not g.any():
            continue
        curve = []
        for t in torch.linspace(0, 1 - 1e-10, 255).numpy():
            hits, marked = ((frame >= t) & (g > 0)).sum(), (frame >= t).sum()
            curve.append(1.3 * hits / (0.3 * g.sum() + marked) if hits else 0.0)
        curves.append(curve)
    return float(np.mean(curves, 0).max()) if curves else 0.0


def mean_iou(marked: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU over the frames of one clip; an empty frame counts the share of true negative pixels."""
    pairs = zip(marked, truth.astype(bool), strict=True)
    return float(np.mean([(m & g).sum() / (m | g).sum() if g.any() else (~m).mean() for m, g in pairs]))


def truths(rng: np.random.Generator) -> list[np.ndarray]:
    made = [(rng.random((5, 8, 9)) < 0.4).astype(np.float32) for _ in range(3)]
    made[1][2:] = 0
    return made


def test_python_for_two_logits():
    rng = np.random.default_rng(0)
    clips = [(rng.normal(size=(5, 2, 8, 9)).astype(np.float32), truth) for truth in truths(rng)]
    names = {"clips": [tuple(map(torch.from_numpy, clip)) for clip in clips]}
    exec(SNIPPETS["Python, two logits"], names)
    mixed = [1 / (1 + np.exp(logits[:, 0] - 2 * logits[:, 1])) for logits, _ in clips]
    want = np.mean([mean_iou(logits[:, 1] > logits[:, 0], truth) for logits, truth in clips])
    assert names["miou"] == pytest.approx(want, abs=1e-6)
    f = np.mean([curve_maximum(p, truth) for p, (_, truth) in zip(mixed, clips, strict=True)])
    assert names["f"] == pytest.approx(f, abs=1e-6)


def test_python_for_sums_over_queries():
    rng = np.random.default_rng(1)
    clips = [
        (rng.normal(size=(5, 6, 3)).astype(np.float32), rng.normal(size=(5, 6, 8, 9)).astype(np.float32), truth)
        for truth in truths(rng)
    ]
    names = {"clips": [tuple(map(torch.from_numpy, clip)) for clip in clips]}
    exec(SNIPPETS["Python, sums over queries"], names)
    ious, fs = [], []
    for classes, masks, truth in clips:
        shares = np.exp(classes) / np.exp(classes).sum(-1, keepdims=True)
        background, thing = ((shares[..., c, None, None] / (1 + np.exp(-masks))).sum(1) for c in (0, 1))
        ious.append(mean_iou(thing > background, truth))
        fs.append(curve_maximum(1 / (1 + np.exp(background - thing)), truth))
    assert (names["miou"], names["f"]) == pytest.approx((np.mean(ious), np.mean(fs)), abs=1e-6)
