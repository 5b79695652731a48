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
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def test_clips_of_five_seconds_with_masks_and_audio(made: Path):
    records = {record.name: record for record in read_all(made)}
    assert list(records) == ["bark_0_3", "drum_0_3", "horn_0_3", "train_0_5", "train_5_7"]
    assert class_names(made) == ("dog", "drum")
    clip = records["train_5_7"].load(None)
    assert [number_in(frame) for frame in clip.frames] == [55, 65]  # at 5.5 s and 6.5 s, 10 fps
    assert clip.labelled.tolist() == [False, True]
    assert (clip.masks[1, :, : OWN_SIZE[0] // 3] == 2).all() and not clip.masks[1, :, OWN_SIZE[0] // 3 :].any()
    assert clip.class_ids is not None
    assert len(clip.waveform) == 2 * 16_000
    time = np.arange(5 * 16_000, 7 * 16_000) / 16_000  # the tone continues from the first clip
    inner = slice(800, -4000)
    basis = np.stack([np.sin(2 * np.pi * 440 * time), np.cos(2 * np.pi * 440 * time)])[:, inner]
    amplitude = np.hypot(*(2 * (basis @ clip.waveform[inner]) / basis.shape[1]))
    assert amplitude == pytest.approx(0.3, rel=0.05)
    assert [record.split for record in records.values()] == ["train", "train", "val", "test", "test"]


def test_tensors_have_masks_and_sounding_classes(made: Path):
    data = ClipDataset(read_set(made, "train"), class_names(made), ClipSpec(image_size=64))
    dog = data[0]
    assert dog.sounding.tolist() == [[True, False], [False, False], [True, False]]
    assert dog.labelled.tolist() == [True, False, True]
    assert 0.25 < dog.masks[0].mean() < 0.4 and set(dog.class_map[0].unique().tolist()) == {0, 1}


def test_videos_are_cut_once(made: Path):
    first, again = ([record.audio_path.stat().st_mtime_ns for record in read_all(made)] for _ in range(2))
    assert first == again and len(again) == 5


def test_a_changed_video_is_cut_again(own: Path):
    before = {record.name: record.load(None).frames for record in read_all(own)}
    make_clip(own / "videos/bark.mp4", seconds=2.95, fps=20, size=OWN_SIZE, sound=tone(2.95))
    after = {record.name: record.load(None).frames for record in read_all(own)}
    assert number_in(before["bark_0_3"][1]) == 15 and number_in(after["bark_0_3"][1]) == 30


def test_a_class_for_each_video_instead_of_ids(own: Path):
    (own / "classes.txt").unlink()
    rows = "bark,train,dog\ndrum,train,drum;dog\nhorn,val,horn\ntrain,test,train\n"
    (own / "clips.csv").write_text(f"name,split,class\n{rows}")
    for path in (own / "masks").rglob("*.png"):
        write_left_third(path, 255)
    assert class_names(own) == ("dog", "drum", "horn", "train")
    records = {record.name: record for record in read_all(own)}
    assert records["drum_0_3"].sounding == {"drum", "dog"} and records["bark_0_3"].onscreen == {"dog"}
    assert records["bark_0_3"].load().class_ids is None
    data = ClipDataset(read_set(own, "train"), class_names(own), ClipSpec(image_size=64))
    assert data[1].sounding.tolist()[0] == [True, True, False, False]
    assert set(data[0].class_map[0].unique().tolist()) == {0, 1}


def test_splits_without_a_table_follow_the_names(own: Path):
    (own / "clips.csv").unlink()
    splits = {video.name: video.split for video in read_videos(own)}
    assert sorted(splits.values()) == ["test", "train", "train", "val"]
    (own / "videos/bark.mp4").rename(own / "videos/aaa.mp4")
    (own / "masks/bark").rename(own / "masks/aaa")
    again = {video.name: video.split for video in read_videos(own)}
    assert sum(splits[name] != again[name] for name in ("drum", "horn", "train")) <= 1


@pytest.mark.parametrize("ids", [True, False], ids=["class ids", "masks alone"])
def test_train_check_evaluate_and_probe(ids: bool, own: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "own", two_steps("own"))
    if not ids:
        (own / "classes.txt").unlink()
        for path in (own / "masks").rglob("*.png"):
            write_left_third(path, 255)
    assert check_command(own) == 0
    out = capsys.readouterr().out
    assert "train      2 clips" in out and "fit for use" in out and "published" not in out
    assert main(["train", "own", "--data", "own", "--out", "run"]) == 0
    assert main(["evaluate", "run/own.safetensors", "--data", "own"]) == 0
    scored = {(row["test_set"], row["audio"], row["clips"]) for row in read_table("results/avsbench.csv")}
    assert scored == {("own", audio, "2") for audio in ("true", "silence", "noise")}
    assert main(["segment", "own/videos/bark.mp4", "--out", "masks", "--checkpoint", "run/own.safetensors"]) == 0


def spoil_size(own: Path) -> None:
    write_left_third(own / "masks/bark/000000.png", 1, (64, 64))


def silent(own: Path) -> None:
    make_clip(own / "videos/bark.mp4", seconds=3, fps=10, size=OWN_SIZE)


SPOILT = [  # more in test_a_check_names_all_faults_at_once
    ("no masks folder", lambda own: shutil.rmtree(own / "masks"), "videos/ but no masks/"),
    ("no videos folder", lambda own: shutil.rmtree(own / "videos"), "masks/ but no videos/"),
    ("no videos", lambda own: [path.unlink() for path in (own / "videos").iterdir()], "holds no video"),
    ("a video without masks", lambda own: shutil.rmtree(own / "masks/bark"), r"no masks of bark\.mp4"),
    ("two videos of one name", lambda own: (own / "videos/bark.mkv").write_bytes(b"x"), "have the same name"),
    ("a video without sound", silent, "has no sound"),
    ("two masks of a second", lambda own: write_left_third(own / "masks/bark/2.png", 1), "of the same second"),
    ("a mask after the end", lambda own: write_left_third(own / "masks/bark/000003.png", 1), "has no second 3"),
    ("a mask of another size", spoil_size, "is 64x64, its video 192x120"),
    ("no picture", lambda own: (own / "masks/bark/000000.png").write_text("x"), "cannot read the image"),
    ("class ids without names", lambda own: (own / "classes.txt").unlink(), "want one channel with 0 and 255"),
    ("an id without a name", lambda own: (own / "classes.txt").write_text("dog\n"), "classes.txt names 0 to 1"),
    ("a name twice", lambda own: (own / "classes.txt").write_text("dog\ndog\n"), "2 names, 1 of them different"),
    ("no names", lambda own: (own / "classes.txt").write_text("\n"), "holds no name"),
    ("no UTF-8", lambda own: (own / "classes.txt").write_bytes(b"\xff\n"), "UTF-8"),
    ("no column", lambda own: (own / "clips.csv").write_text("video,split\nbark,train\n"), "lacks the column name"),
    ("a column misspelt", lambda own: (own / "clips.csv").write_text("name,split,clas\nbark,train,dog\n"),
        "column 'clas'"),
    ("an unknown class", lambda own: (own / "clips.csv").write_text(
        "name,split,class\nbark,train,wolf\ndrum,train,dog\nhorn,val,dog\ntrain,test,dog\n"), "class 'wolf' of bark"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "line"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_faulty_sets_are_refused(spoil: Callable[[Path], object], line: str, own: Path):
    spoil(own)
    with pytest.raises(UserError, match=line):
        data = ClipDataset(read_set(own, "train"), class_names(own), ClipSpec(image_size=64))
        for index in range(len(data)):
            data.clip(index)


def test_a_check_names_all_faults_at_once(own: Path, capsys: pytest.CaptureFixture[str]):
    (own / "clips.csv").write_text("name,split\nbark,dev\ncat,train\nhorn,val\nhorn,test\ntrain,test\n")
    (own / "classes.txt").write_text("dog\n\nbackground\n")
    (own / "videos/horn.mp4").write_text("text")
    (own / "masks/ghost").mkdir()
    write_left_third(own / "masks/bark/first.png", 1)
    write_left_third(own / "masks/train/000300.png", 1)
    write_left_third(own / "masks/bark/000000.png", 1, (64, 64))
    assert check_command(own) == 1
    printed = capsys.readouterr().out
    for words in (
        "line 2: split 'dev'", "line 3: no video 'cat'", "line 5: horn is listed twice", "drum.mp4 is not in it",
        "an empty name of a class", "background is not a class", "horn.mp4: not a video", "ghost: there is no video",
        "first.png: is not the name of a mask", "has no second 300", "000000.png: is 64x64",
    ):  # fmt: skip
        assert words in printed, words


@pytest.mark.parametrize(
    ("spoil", "heading"),
    [
        (lambda own: (own / "masks/bark/000000.png").write_text("x"), "masks"),
        (lambda own: write_left_third(own / "masks/bark/000000.png", 1, (64, 64)), "masks"),
        (lambda own: write_left_third(own / "masks/train/000300.png", 1), "masks"),
        (lambda own: (own / "classes.txt").write_bytes(b"\xff\n"), "class names"),
        (lambda own: (own / "clips.csv").write_text("video,split\nbark,train\n"), "table"),
    ],
)
def test_a_check_names_a_fault_once(spoil: Callable, heading: str, own: Path, capsys: pytest.CaptureFixture[str]):
    spoil(own)
    assert check_command(own) == 1
    printed = capsys.readouterr().out
    assert f"\n  {heading}: 1\n" in printed and "UNFIT: 1 problem\n" in printed, printed


def test_too_few_videos_for_splits(own: Path):
    (own / "clips.csv").unlink()
    for name in NAMES[1:3]:
        (own / f"videos/{name}.mp4").unlink()
        shutil.rmtree(own / "masks" / name)
    with pytest.raises(UserError, match="too few for the splits"):
        read_all(own)
    (own / "clips.csv").write_text("name,split\nbark,test\ntrain,test\n")
    assert len(read_set(own, "test")) == 3
    with pytest.raises(UserError, match=r"own has no clip of split 'train'"):
        read_set(own, "train")


def test_recipes_of_public_sets_refuse_custom_sets(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "s4-pvt", "--data", str(own), "--out", str(tmp_path / "run")]) == 2
    assert "holds videos/ and masks/, for recipe own" in capsys.readouterr().err
    assert main(["train", "own", "--out", str(tmp_path / "run")]) == 2
    assert "trains on videos of your own: name the folder with --data; it holds videos/ and" in capsys.readouterr().err
    for lacking in (tmp_path / "nope", tmp_path):
        assert main(["train", "own", "--data", str(lacking), "--out", str(tmp_path / "run"), "--steps", "2"]) == 2
        error = capsys.readouterr().err
        assert "trains on videos of your own" in error and "s4_meta_data" not in error
        assert "about an hour" not in error, "an estimate is of the recipe as it stands"
