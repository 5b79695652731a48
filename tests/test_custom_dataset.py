"""Custom data sets: read, checked, trained on, evaluated, and a clear error for every fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from avsbench_fixtures import OWN_SIZE, read_table, write_left_third
from clip_maker import make_clip, number_in, tone
from small_training import random_names, two_steps

from icf_avs.__main__ import main
from icf_avs.datasets.check import check_command
from icf_avs.datasets.custom_dataset import read_videos
from icf_avs.datasets.dataset import ClipDataset
from icf_avs.datasets.layouts import class_names, read_all, read_set
from icf_avs.errors import UserError
from icf_avs.training.recipes import RECIPES
from icf_avs.types import ClipSpec

NAMES = ("bark", "drum", "horn", "train")  # video names


@pytest.fixture(scope="module", autouse=True)
def stand_ins(tmp_path_factory: pytest.TempPathFactory):
    """A separate cache of cut clips, and no text encoder, which takes ten seconds to load."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr("icf_avs.datasets.custom_dataset.cache_dir", lambda: folder)
        patch.setattr("icf_avs.training.trainer.embed_names", random_names)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of numbered frames, 3 s, the last 7 s; class ids 1 and 2 alternate, second 1 is unlabelled."""
    root = tmp_path_factory.mktemp("own")
    (root / "videos").mkdir()
    for i, name in enumerate(NAMES):
        seconds = 7 if name == "train" else 3
        sound = tone(seconds) * (i + 1) / 4
        make_clip(root / "videos" / f"{name}.mp4", seconds=seconds, fps=10, size=OWN_SIZE, sound=sound)
        for second in (0, 2, 6) if name == "train" else (0, 2):
            write_left_third(root / "masks" / name / f"{second:06d}.png", 1 + i % 2)
    (root / "classes.txt").write_text("dog\ndrum\n")
    (root / "clips.csv").write_text("name,split\nbark,train\ndrum,train\nhorn,val\ntrain,test\n")
    return root


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "own")


def dataset(root: Path) -> ClipDataset:
    return ClipDataset(read_set(root, "train"), class_names(root), ClipSpec(image_size=64))


def test_clips_of_five_seconds_with_masks_and_audio(made: Path):
    records = {record.name: record for record in read_all(made)}
    assert list(records) == ["bark_0_3", "drum_0_3", "horn_0_3", "train_0_5", "train_5_7"]
    assert [record.split for record in records.values()] == ["train", "train", "val", "test", "test"]
    clip = records["train_5_7"].load(None)
    assert [number_in(frame) for frame in clip.frames] == [55, 65]  # at 5.5 s and 6.5 s, 10 fps
    assert clip.labelled.tolist() == [False, True]
    assert (clip.masks[1, :, : OWN_SIZE[0] // 3] == 2).all() and not clip.masks[1, :, OWN_SIZE[0] // 3 :].any()
    assert len(clip.waveform) == 2 * 16_000
    time = np.arange(5 * 16_000, 7 * 16_000) / 16_000  # the tone continues from the first clip
    inner = slice(800, -4000)
    basis = np.stack([np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 440 * time)])[:, inner]
    amplitude = np.hypot(*(2 * (basis @ clip.waveform[inner]) / basis.shape[1]))
    assert amplitude == pytest.approx(0.3, rel=0.05)
    dog = dataset(made)[0]
    assert dog.sounding.tolist() == [[True, False], [False, False], [True, False]]
    assert 0.25 < dog.masks[0].mean() < 0.4 and set(dog.class_map[0].unique().tolist()) == {0, 1}


def test_videos_are_cut_once_unless_they_change(own: Path):
    before, again = ({record.name: record for record in read_all(own)} for _ in range(2))
    assert before == again and number_in(before["bark_0_3"].load(None).frames[1]) == 15
    make_clip(own / "videos/bark.mp4", seconds=2.95, fps=20, size=OWN_SIZE, sound=tone(2.95))
    after = {record.name: record for record in read_all(own)}
    assert number_in(after["bark_0_3"].load(None).frames[1]) == 30
    assert [name for name in after if before[name] != after[name]] == ["bark_0_3"]


def test_splits_without_a_table(own: Path):
    (own / "clips.csv").unlink()
    assert sorted(video.split for video in read_videos(own)) == ["test", "train", "train", "val"]
    for name in ("drum", "horn"):
        (own / f"videos/{name}.mp4").unlink()
        shutil.rmtree(own / "masks" / name)
    with pytest.raises(UserError, match="too few for the splits"):
        read_all(own)


def test_a_class_for_each_video(own: Path, capsys: pytest.CaptureFixture[str]):
    (own / "classes.txt").unlink()
    rows = "bark,train,dog\ndrum,train,drum;dog\nhorn,val,horn\ntrain,test,train\n"
    (own / "clips.csv").write_text(f"name,split,class\n{rows}")
    for path in (own / "masks").rglob("*.png"):
        write_left_third(path, 255)
    data = dataset(own)
    assert data.names == ("dog", "drum", "horn", "train") and data.records[0].onscreen == {"dog"}
    assert data[1].sounding.tolist()[0] == [True, True, False, False]
    assert set(data[0].class_map[0].unique().tolist()) == {0, 1}
    assert check_command(own) == 0
    out = capsys.readouterr().out
    assert "train      2 clips" in out and "fit for use" in out and "published" not in out


def test_train_evaluate_and_segment(own: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "own", two_steps("own"))
    assert check_command(own) == 0
    assert main(["train", "own", "--data", "own", "--out", "run"]) == 0
    assert main(["evaluate", "run/own.safetensors", "--data", "own"]) == 0
    scored = {(row["test_set"], row["audio"], row["clips"]) for row in read_table("results/avsbench.csv")}
    assert scored >= {("own", audio, "2") for audio in ("true", "silence", "noise")}
    assert main(["segment", "own/videos/bark.mp4", "--out", "masks", "--checkpoint", "run/own.safetensors"]) == 0


def test_a_check_names_all_faults_at_once(own: Path, capsys: pytest.CaptureFixture[str]):
    table = "name,split\nbark,dev\ncat,train\ndrum,val\ndrum,test\nhorn,val\ntrain,test\n"
    (own / "clips.csv").write_text(table)
    (own / "classes.txt").write_text("dog\n\nbackground\ndog\n")
    for name in ("bark.mkv", "more.mp4"):
        (own / "videos" / name).write_bytes(b"x")
    make_clip(own / "videos/drum.mp4", seconds=3, fps=10, size=OWN_SIZE)
    shutil.rmtree(own / "masks/horn")
    (own / "masks/ghost").mkdir()
    for name in ("bark/first", "bark/2", "train/000300"):
        write_left_third(own / f"masks/{name}.png", 1)
    write_left_third(own / "masks/bark/000000.png", 1, (64, 64))
    assert check_command(own) == 1
    printed = capsys.readouterr().out
    for words in (
        "line 2: split 'dev'", "line 3: no video 'cat'", "line 5: drum is listed twice", "more.mp4 is not in it",
        "an empty name of a class", "background is not a class", "4 names, 3 of them different", "have the same name",
        "drum.mp4: has no sound", "no masks of horn.mp4", "ghost: there is no video", "of the same second",
        "first.png: is not the name of a mask", "has no second 300", "000000.png: is 64x64",
    ):  # fmt: skip
        assert words in printed, words


@pytest.mark.parametrize(
    ("spoil", "heading", "line"),
    [
        (lambda own: write_left_third(own / "masks/bark/000000.png", 1, (64, 64)), "masks", "is 64x64, its video 192x"),
        (lambda own: write_left_third(own / "masks/bark/000000.png", 3), "masks", "class id 3"),
        (lambda own: (own / "clips.csv").write_text("name,split,clas\nbark,train,dog\n"), "table", "column 'clas'"),
    ],
)
def test_a_fault_is_named_once_and_refused(spoil: Callable, heading: str, line: str, own: Path, capsys):
    spoil(own)
    check_command(own)
    printed = capsys.readouterr().out
    assert f"\n  {heading}: 1\n" in printed and "UNFIT: 1 problem\n" in printed and line in printed, printed
    with pytest.raises(UserError, match=line):
        list(dataset(own))


def test_recipes_of_public_sets_refuse_custom_sets(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "s4-pvt", "--data", str(own), "--out", str(tmp_path / "run")]) == 2
    assert "holds videos/ and masks/, for recipe own" in capsys.readouterr().err
    assert main(["train", "own", "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "name the folder with --data; it holds videos/ and" in capsys.readouterr().err
