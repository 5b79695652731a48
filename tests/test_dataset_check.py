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

from icf_avs.datasets import check
from icf_avs.datasets.check import check_command, check_set, find_sets
from icf_avs.errors import UserError

SPLITS = ("train", "val", "test")
AVSS = [
    ("a", "a_0_5000", 0, 0, "class-02", "train", "v1s"),
    ("b", "b_0_5000", 0, 0, "class-03_class-02", "test", "v1m"),
    ("c", "c_0_10000", 0, 0, "woman", "val", "v2"),
]
WRITERS = {
    "Single-source": (fixtures.write_s4, [(f"dog{i}", 0, "dog", split) for i, split in enumerate(SPLITS)]),
    "Multi-sources": (fixtures.write_ms3, [(f"video{i}", split) for i, split in enumerate(SPLITS)]),
    "AVSS": (fixtures.write_avss, AVSS),
}


def write(root: Path, name: str) -> Path:
    writer, clips = WRITERS[name]
    writer(root / name, clips)
    return root / name


def test_complete_sets_are_fit(tmp_path: Path, monkeypatch, capsys) -> None:
    for name in WRITERS:
        write(tmp_path / "good", name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sets").symlink_to(tmp_path / "good")
    assert [path.name for path in find_sets(tmp_path / "data")] == ["AVSS", "Multi-sources", "Single-source"]
    monkeypatch.setitem(check.OFFICIAL, "MS3", {"train": 1, "val": 1, "test": 1})
    assert check_command(tmp_path / "good") == 0
    out = capsys.readouterr().out
    assert "train      1 clips, published 3452" in out and out.count("fit for use") == 3
    assert out.count("not the published set") == 2 and "UNFIT" not in out
    with pytest.raises(UserError, match="no folder"):
        check_command(tmp_path / "nowhere")


def find(root: Path, pattern: str) -> Path:
    return sorted(root.rglob(pattern))[0]


def grey(path: Path, value: int, size=(224, 224)) -> None:
    fixtures.write_picture(path, np.full(size, value, np.uint8))


def append(root: Path, *rows: str) -> None:
    path = next(root / name for name in check.TABLES if (root / name).exists())
    path.write_text("\n".join([path.read_text().strip(), *rows, ""]))


def wav(root: Path, rate: int, seconds: float = 5) -> None:
    fixtures.write_wav(find(root, "*.wav"), fixtures.tone(0, seconds, rate), rate)


class Canary:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


SPOILT = [
    ("Multi-sources", "masks", "with 0 and 255, got .*128", lambda r: grey(find(r, "gt_masks/*/*/*.png"), 128)),
    ("AVSS", "masks", "class ids 0..70, got .*71", lambda r: grey(find(r, "labels_semantic/0.png"), 71, (144, 256))),
    ("AVSS", "masks", "is 256x256", lambda r: grey(find(r, "labels_semantic/0.png"), 0, (256, 256))),
    ("AVSS", "masks", "9.png is missing", lambda r: find(r, "v2/*/labels_semantic/9.png").unlink()),
    ("AVSS", "frames", "truncated", lambda r: os.truncate(find(r, "frames/0.jpg"), 1500)),
    ("AVSS", "frames", "5.jpg: does not belong", lambda r: grey(find(r, "v1m/*/frames") / "5.jpg", 0)),
    ("Single-source", "frames", "frames/val is missing", lambda r: find(r, "visual_frames/val").rename(r / "gone")),
    ("Single-source", "audio", "cannot be decoded", lambda r: find(r, "*.wav").write_bytes(b"RIFF")),
    ("Single-source", "audio", "is of 44100 Hz, most are of 16000 Hz", lambda r: wav(r, 44_100)),
    ("AVSS", "audio", "less than one window", lambda r: wav(r, 16_000, 0.5)),
    ("Multi-sources", "audio", "refused", lambda r: find(r, "*.pkl").write_bytes(pickle.dumps(Canary()))),
    ("Multi-sources", "audio", "3 log-mel windows", lambda r: (
        fixtures.write_pickle(find(r, "*.pkl"), fixtures.tone(0, 5), 3))),
    ("AVSS", "audio", "is missing, and there is no other sound", lambda r: find(r, "*.wav").unlink()),
    ("AVSS", "table", "b_0_5000 is in test and train", lambda r: append(r, "b,b_0_5000,0,0,class-03,train,v1m")),
    ("AVSS", "class names", "is missing", lambda r: (r / "label2idx.json").unlink()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "category", "message", "spoil"), SPOILT, ids=[f"{s[0]}-{s[2]}" for s in SPOILT])
def test_each_fault_is_found_and_named(tmp_path, monkeypatch, capsys, name, category, message, spoil) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(write(tmp_path, name))
    assert check_command(tmp_path) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{category}: "))
    assert any(re.search(message, line) for line in lines[heading + 1 :]), out
    assert "UNFIT: 1 problem\n" in out and not Path("exploded").exists()


def test_all_faults_of_a_table_are_named_and_ten_of_other_files(tmp_path: Path, capsys) -> None:
    """Files of valid lines are still checked, and an unreadable table does not hide other faults."""
    root = write(tmp_path, "AVSS")
    for path in root.rglob("labels_semantic/*.png"):
        grey(path, 99, (144, 256))
    append(root, "a,,0,0,x,test,v1m", "d,../d,0,0,x,test,v2", "e,e_0,0,0,,tset,v3")
    assert check_command(tmp_path) == 1
    out = capsys.readouterr().out
    for number, words in (
        (5, "an empty cell"), (6, "cannot be a file's"), (7, "a_obj is ''"), (7, "split 'tset'"), (7, "label 'v3'"),
    ):  # fmt: skip
        assert re.search(f"line {number}: .*{words}", out), out
    assert "masks: 16" in out and out.count("got [99]") == 10 and "... and 6 more" in out
    fixtures.write_table(root / "metadata.csv", "uid,split", [])
    (root / "label2idx.json").write_text(json.dumps({"background": 3}))
    assert [problem.category for problem in check_set(root)[0].problems] == ["class names", "table"]


def test_notes_do_not_make_a_set_unfit(tmp_path: Path) -> None:
    avss, ms3 = write(tmp_path, "AVSS"), write(tmp_path, "Multi-sources")
    (avss / "metadata.csv").write_text((avss / "metadata.csv").read_text().replace("woman", "no-such-name"))
    wav(avss, 44_100)
    for path in avss.rglob("frames"):  # what file browsers leave behind
        (path / "._0.jpg").write_bytes(b"x")
    for path in ms3.rglob("*.png"):
        grey(path, 0, (240, 320))
    found = check_set(tmp_path)
    assert not any(report.problems for report in found)
    notes = " ".join(note for report in found for note in report.notes)
    assert "1 name of metadata.csv missing in label2idx.json: no-such-name (1 clip)" in notes
    assert "sample rates: 2 of 16000 Hz, 1 of 44100 Hz" in notes
    assert "3 clips with frames that are not 224x224" in notes
