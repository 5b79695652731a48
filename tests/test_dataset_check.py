"""`icf data check`: valid sets are fit for use, and every fault is found and named."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
from PIL import Image

from icf_avs import console
from icf_avs.datasets import check
from icf_avs.datasets.check import check_command, check_set, find_sets
from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError

S4 = [(f"{split}-dog_{i}"[:11], 0, "dog", split) for split in ("train", "val", "test") for i in range(2)]
MS3 = [(f"video{i}_{split}", split) for split in ("train", "val", "test") for i in range(2)]
AVSS = [
    ("a", "a_0_5000", 0, 0, "class-02", "train", "v1s"),
    ("b", "b_0_5000", 0, 0, "class-03_class-02", "test", "v1m"),
    ("c", "c_0_10000", 0, 0, "woman", "val", "v2"),
]


WRITERS = {
    "Single-source": (fixtures.write_s4, S4),
    "Multi-sources": (fixtures.write_ms3, MS3),
    "AVSS": (fixtures.write_avss, AVSS),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    for name, (write, clips) in WRITERS.items():
        write(root / name, clips)
    return root


def test_complete_sets_are_fit(good: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "data").symlink_to(good)
    assert [path.name for path in find_sets(tmp_path)] == ["AVSS", "Multi-sources", "Single-source"]
    assert [found.layout for found in check_set(good / "AVSS")] == ["AVSS"]
    sets = check_set(good)
    assert [(found.layout, found.problems) for found in sets] == [("AVSS", []), ("MS3", []), ("S4", [])]
    assert sets[2].counts == {"train": 2, "val": 2, "test": 2}
    monkeypatch.setitem(check.OFFICIAL, "MS3", {"train": 2, "val": 2, "test": 2})
    assert check_command(good) == 0
    out = capsys.readouterr().out
    assert "train      2 clips, published 3452" in out and out.count("fit for use") == 3
    assert out.count("not the published set") == 2 and "UNFIT" not in out


def test_stamps_is_fit(stamps_sets: Path) -> None:
    assert [found.problems for found in check_set(stamps_sets)] == [[]] * 3


def find(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def grey(path: Path, value: int, size=(224, 224)) -> None:
    fixtures.write_picture(path, np.full(size, value, np.uint8))


def table(root: Path, change) -> None:
    path = next(root / name for name in check.TABLES if (root / name).exists())
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join(row) for row in change(lines)) + "\n")


def rename(root: Path, old: str, new: str = "x") -> None:
    table(root, lambda lines: [[new if cell == old else cell for cell in line] for line in lines])


def labels(root: Path, change) -> None:
    path = root / "label2idx.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def wav(root: Path, rate: int, seconds: float = 5) -> None:
    fixtures.write_wav(find(root, "*.wav"), fixtures.tone(0, seconds, rate), rate)


class Canary:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


SPOILT = [
    ("Single-source", "masks", r"0 and 255, got \[7\]", lambda r: grey(find(r, "gt_masks/*/*/*/*.png"), 7)),
    ("Multi-sources", "masks", "with 0 and 255, got .*128", lambda r: grey(find(r, "gt_masks/*/*/*.png"), 128)),
    ("AVSS", "masks", "class ids 0..70, got .*71", lambda r: grey(find(r, "labels_semantic/0.png"), 71, (144, 256))),
    ("Single-source", "masks", "is 100x100", lambda r: grey(find(r, "gt_masks/*/*/*/*.png"), 0, (100, 100))),
    ("Multi-sources", "frames", "is 50x60", lambda r: grey(find(r, "*.mp4_3.png"), 0, (60, 50))),
    ("AVSS", "masks", "is 256x256", lambda r: grey(find(r, "labels_semantic/0.png"), 0, (256, 256))),
    ("Single-source", "audio", "cannot be decoded", lambda r: find(r, "*.wav").write_bytes(b"RIFF")),
    ("AVSS", "audio", "less than one window", lambda r: wav(r, 16_000, 0.5)),
    ("Multi-sources", "audio", "refused", lambda r: find(r, "*.pkl").write_bytes(pickle.dumps(Canary()))),
    ("Multi-sources", "audio", "3 log-mel windows", lambda r: fixtures.write_pickle(
        find(r, "*.pkl"), fixtures.tone(0, 5), 3)),
    ("Multi-sources", "audio", "is missing, and there is no other sound", lambda r: [
        find(r, "*.wav").unlink(), find(r, "*.pkl").unlink()]),
    ("Single-source", "masks", "cannot read the image", lambda r: find(r, "*_2.png").write_bytes(b"\x89PNG")),
    ("AVSS", "frames", "truncated", lambda r: (
        find(r, "frames/0.jpg").write_bytes(find(r, "frames/0.jpg").read_bytes()[:1500]))),
    ("Single-source", "frames", "_3.png is missing", lambda r: find(r, "visual_frames/*/*/*/*_3.png").unlink()),
    ("AVSS", "frames", "5.jpg: does not belong", lambda r: grey(find(r, "v1m/*/frames") / "5.jpg", 0)),
    ("AVSS", "masks", "9.png is missing", lambda r: find(r, "v2/*/labels_semantic/9.png").unlink()),
    ("Multi-sources", "masks", "_5.png is missing", lambda r: [
        find(r, f"gt_masks/*/*/*_{k}.png").unlink() for k in (3, 4, 5)]),
    ("Multi-sources", "masks", "gt_masks/test is missing", lambda r: find(r, "gt_masks/test").rename(r / "gone")),
    ("Single-source", "frames", "visual_frames/val is missing", lambda r: (
        find(r, "visual_frames/val").rename(r / "gone"))),
    ("Single-source", "table", "lacks the column category", lambda r: rename(r, "category")),
    ("AVSS", "table", "lacks the column a_obj", lambda r: rename(r, "a_obj")),
    ("AVSS", "table", "label 'v3'", lambda r: rename(r, "v1m", "v3")),
    ("Multi-sources", "table", "split 'tset'", lambda r: table(r, lambda t: [*t, ["x", "tset"]])),
    ("Multi-sources", "table", "is there 2 times", lambda r: table(r, lambda t: [*t, t[-1]])),
    ("Multi-sources", "table", "video0_train is in test and train", lambda r: (
        table(r, lambda t: [*t, ["video0_train", "test"]]))),
    ("AVSS", "class names", "is missing", lambda r: (r / "label2idx.json").unlink()),
    ("AVSS", "class names", "repeated or left out", lambda r: labels(r, lambda ids: ids | {"woman": 3})),
    ("Single-source", "audio", "is of 44100 Hz, most are of 16000 Hz", lambda r: wav(r, 44_100)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "category", "message", "spoil"), SPOILT, ids=[f"{s[0]}-{s[2]}" for s in SPOILT])
def test_each_fault_is_found_and_named(tmp_path, monkeypatch, capsys, name, category, message, spoil) -> None:
    monkeypatch.chdir(tmp_path)
    write, clips = WRITERS[name]
    write(tmp_path / name, clips)
    spoil(tmp_path / name)
    (found,) = check_set(tmp_path)
    assert category in [problem.category for problem in found.problems]
    assert check_command(tmp_path) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{category}: "))
    assert any(re.search(message, line) for line in lines[heading + 1 :]), out
    assert "UNFIT" in out and not Path("exploded").exists()


def test_one_fault_is_reported_once(tmp_path: Path) -> None:
    """A missing folder of a split is named once, not per clip; only faults are named."""
    fixtures.write_ms3(tmp_path, MS3)
    find(tmp_path, "gt_masks/test").rename(tmp_path / "gone")
    grey(find(tmp_path, "gt_masks/*/*/*.png"), 9)
    (found,) = check_set(tmp_path)
    assert [problem.category for problem in found.problems] == ["masks", "masks"]
    assert any("gt_masks/test is missing" in problem.line for problem in found.problems)
    fixtures.write_s4(tmp_path / "s4", S4)
    rename(tmp_path / "s4", "category")
    assert [problem.category for problem in check_set(tmp_path / "s4")[0].problems] == ["table"]


def test_all_faults_of_a_table_are_named(tmp_path: Path, capsys) -> None:
    """Files of valid lines are still checked."""
    fixtures.write_avss(tmp_path, AVSS)
    grey(find(tmp_path, "v2/*/labels_semantic/0.png"), 99, (144, 256))
    bad = [["a", "", "0", "0", "x", "test", "v1m"], ["b", "b_0", "0", "0", "x", "tset", "v1m"],
           ["c", "c_0", "0", "0", "x", "test", "v3"], ["d", "../d", "0", "0", "x", "test", "v2"],
           ["e", "e_0", "0", "0", "", "tset", "v3"]]  # fmt: skip
    first = len(AVSS) + 2
    table(tmp_path, lambda lines: [*lines, *bad])
    assert check_command(tmp_path) == 1
    out = capsys.readouterr().out
    for number, words in enumerate(("an empty cell", "split 'tset'", "label 'v3'", "cannot be a file's")):
        assert re.search(f"line {first + number}: .*{words}", out), out
    for words in ("a_obj is ''", "split 'tset'", "label 'v3'"):  # each fault of a line
        assert re.search(f"line {first + len(bad) - 1}: .*{words}", out), out
    assert "got [99]" in out
    rename(tmp_path, "a_obj")  # an unreadable table does not hide other faults
    labels(tmp_path, lambda ids: ids | {"woman": 3})
    assert [problem.category for problem in check_set(tmp_path)[0].problems] == ["class names", "table"]


def test_only_ten_problems_of_a_category_are_listed(tmp_path: Path, capsys) -> None:
    fixtures.write_ms3(tmp_path, MS3)
    for path in tmp_path.rglob("gt_masks/*/*/*.png"):
        grey(path, 9)
    assert check_command(tmp_path) == 1
    out = capsys.readouterr().out
    assert "masks: 30" in out and out.count("got [9]") == 10 and "... and 20 more" in out
    console.set_verbosity(console.VERBOSE)
    try:
        assert check_command(tmp_path) == 1 and capsys.readouterr().out.count("got [9]") == 30
    finally:
        console.set_verbosity(console.NORMAL)


def test_notes_do_not_make_a_set_unfit(tmp_path: Path) -> None:
    rows = [*AVSS, ("a", "a_5000_10000", 0, 5, "no-such-name", "test", "v1m")]
    named = [row if row[4] in fixtures.NAMES else (*row[:4], "class-01", *row[5:]) for row in rows]
    fixtures.write_avss(tmp_path, named)
    table(tmp_path, lambda lines: [*lines[:-1], [c.replace("class-01", "no-such-name") for c in lines[-1]]])
    wav(tmp_path, 44_100)
    for path in tmp_path.rglob("frames"):  # what file browsers leave behind
        (path / "._0.jpg").write_bytes(b"x")
    (found,) = check_set(tmp_path)
    assert not found.problems
    notes = " ".join(found.notes)
    assert "1 name of metadata.csv missing in label2idx.json: no-such-name (1 clip)" in notes
    assert "sample rates: 3 of 16000 Hz, 1 of 44100 Hz" in notes


def test_native_frame_sizes_are_noted(tmp_path: Path) -> None:
    fixtures.write_ms3(tmp_path, MS3[:1])
    for path in tmp_path.rglob("*.png"):
        Image.open(path).resize((320, 240), Image.Resampling.NEAREST).save(path)
    (found,) = check_set(tmp_path)
    assert not found.problems and "1 clip with frames that are not 224x224" in " ".join(found.notes)
    assert read_set(tmp_path, "train")[0].load(None).masks.shape == (5, 240, 320)


def test_a_wrong_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no set"):
        check_command(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        check_command(tmp_path / "nowhere")
