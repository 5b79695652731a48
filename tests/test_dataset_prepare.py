"""`icf data prepare`: frames, audio and log-mel windows cut like the released ones, in parallel and resumable."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
from avsbench_oracle import plain_read
from PIL import Image

from icf_avs.datasets.check import check_set
from icf_avs.datasets.prepare import cut_frames, frame_numbers, prepare_command, prepare_set
from icf_avs.errors import UserError

pytestmark = pytest.mark.full

SIZE = (160, 120)


def numbered(count: int) -> list[np.ndarray]:
    """Frames whose number is readable after compression: 8 bits as 8 dark or bright columns."""
    pictures = []
    for number in range(count):
        bits = [number >> bit & 1 for bit in range(8)]
        row = np.repeat(np.array(bits, np.uint8) * 200 + 20, SIZE[0] // 8)
        pictures.append(np.broadcast_to(row[None, :, None], (SIZE[1], SIZE[0], 3)).copy())
    return pictures


def number_of(picture: np.ndarray) -> int:
    columns = picture.mean((0, 2)).reshape(8, -1)[:, 8:20].mean(1)
    return sum(int(value > 120) << bit for bit, value in enumerate(columns))


def videos(root: Path, layout: str = "ms3", clips: int = 5) -> Path:
    """Write a set with only table, masks and raw videos."""
    if layout == "ms3":
        names = [f"-video_____{i}"[-11:] for i in range(clips)]
        fixtures.write_ms3(root, [(name, ("train", "test")[i % 2]) for i, name in enumerate(names)])
        paths = [root / f"raw_videos/{name}.mp4" for name in names]
    else:
        rows = [(f"_dog______{i}", i, "dog", ("train", "test")[i % 2]) for i in range(clips)]
        fixtures.write_s4(root, rows)
        paths = [root / f"raw_videos/{split}/dog/{name}.mp4" for name, _, _, split in rows]
    for seed, path in enumerate(paths):
        samples = fixtures.tone(seed, 5)
        fixtures.write_video(path, numbered(125), Fraction(25), np.stack([samples, samples // 2], 1))
    for path in [*root.rglob("visual_frames"), *root.rglob("audio_wav"), *root.rglob("audio_log_mel")]:
        shutil.rmtree(path)
    return root


@pytest.mark.parametrize(
    ("fps", "numbers"),
    [
        (Fraction(25), [23, 48, 73, 98, 123]),  # 25 * 15/16 = 23.4
        (Fraction(30000, 1001), [28, 58, 88, 118, 148]),  # rounded to 30
        (Fraction(10), [9, 19, 29, 39, 49]),
    ],
)
def test_the_right_frames_are_cut(tmp_path, fps, numbers) -> None:
    fixtures.write_video(tmp_path / "x.mp4", numbered(round(5 * fps)), fps, None)
    cut = cut_frames(tmp_path / "x.mp4")
    assert cut.shape == (5, 224, 224, 3) and cut.dtype == np.uint8
    assert [number_of(picture) for picture in cut] == frame_numbers(float(fps)) == numbers
    assert frame_numbers(23.976) == [22, 46, 70, 94, 118] and frame_numbers(16) == [15, 31, 47, 63, 79]


def test_a_short_video_repeats_its_last_frame(tmp_path) -> None:
    fixtures.write_video(tmp_path / "x.mp4", numbered(90), Fraction(25), None)
    assert [number_of(picture) for picture in cut_frames(tmp_path / "x.mp4")] == [23, 48, 73, 89, 89]


def test_frames_are_resized_without_antialiasing(tmp_path) -> None:
    """Against the formula of bilinear sampling at pixel centres, on a large smooth frame."""
    y, x = np.mgrid[:448, :672]
    picture = np.stack([x * 255 // 671, y * 255 // 447, 128 + 0 * x], -1).astype(np.uint8)
    fixtures.write_video(tmp_path / "x.mp4", [picture] * 10, Fraction(2), None)
    cut = cut_frames(tmp_path / "x.mp4")[0]
    want = np.stack([np.meshgrid((np.arange(224) + 0.5) * 3 - 0.5, np.arange(224))[0] * 255 / 671], -1)
    assert np.abs(cut[..., :1] - want).mean() < 3  # compression error
    sharp = np.zeros((448, 448, 3), np.uint8)
    sharp[:, ::4] = sharp[:, 1::4] = 240  # columns in pairs: samples fall between the two of a pair
    fixtures.write_video(tmp_path / "y.mp4", [sharp] * 10, Fraction(2), None)
    cut = cut_frames(tmp_path / "y.mp4")[0]
    assert cut[100, ::2].mean() > 220 and cut[100, 1::2].mean() < 25  # antialiasing would mix them


@pytest.mark.parametrize("layout", ["ms3", "s4"])
def test_a_prepared_set_is_complete(tmp_path, layout) -> None:
    root = videos(tmp_path / "set", layout, clips=2)
    assert check_set(root)[0].problems
    assert prepare_set(root) == {"clips": 2, "written": 2, "errors": []}
    assert not check_set(root)[0].problems
    for split in ("train", "test"):
        for name, clip in plain_read(root, split).items():
            shown = [number_of(np.asarray(Image.fromarray(picture).resize(SIZE))) for picture in clip["frames"]]
            assert clip["frames"].shape == (5, 224, 224, 3) and shown == [23, 48, 73, 98, 123]
            truth = fixtures.tone(int(name[-1]), 5) * 0.75  # the mean of the channels
            assert np.abs(clip["samples"][4000:76_000] - truth[4000:76_000]).max() < 400


def test_a_second_call_writes_only_what_is_missing(tmp_path) -> None:
    root = videos(tmp_path / "set", clips=2)
    prepare_set(root)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    assert prepare_set(root) == {"clips": 2, "written": 0, "errors": []}
    gone = [next(root.rglob("*.mp4_4.png")), next(root.rglob("*.wav"))]
    for path in gone:
        path.unlink()
    assert prepare_set(root)["written"] in (1, 2)
    for path, (content, time) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time) == (path not in gone)


def test_any_number_of_workers_gives_the_same_files(tmp_path) -> None:
    one, two = videos(tmp_path / "one"), videos(tmp_path / "two")
    assert prepare_set(one, 1)["written"] == prepare_set(two, 2)["written"] == 5
    files = [fixtures.read_files(root, "ms3_data/*/*/*") for root in (one, two)]
    assert files[0] == files[1] and len(files[0]) == 30


def test_errors_are_collected_and_named(tmp_path, capsys) -> None:
    root = videos(tmp_path / "set", clips=5)
    paths = sorted((root / "raw_videos").iterdir())
    paths[0].unlink()
    paths[1].write_bytes(b"no video")
    fixtures.write_video(paths[2], numbered(125), Fraction(25), None)
    fixtures.write_video(paths[3], numbered(125), Fraction(25), fixtures.tone(0, 0.5))
    assert prepare_command(root, 1) == 1
    out = capsys.readouterr().out.splitlines()
    told = ["has no video in raw_videos", "not a video", "has no sound", "less than one window"]
    for line, path, message in zip(out[:4], paths[:4], told, strict=True):
        assert line.startswith(f"clip {path.stem}: ") and message in line
    assert out[4].endswith("5 clips, 1 written now, 0 complete before, 4 not possible") and len(out) == 5
    assert prepare_command(root, 1) == 1
    assert "1 complete before, 4 not possible" in capsys.readouterr().out


def test_wrong_folders_are_refused(tmp_path) -> None:
    fixtures.write_avss(tmp_path / "AVSS", [("a", "a_0_5000", 0, 0, "class-02", "train", "v1s")])
    with pytest.raises(UserError, match="AVSS set, which has no raw videos"):
        prepare_command(tmp_path / "AVSS", 1)
    fixtures.write_ms3(tmp_path / "MS3", [("video______", "train")])
    with pytest.raises(UserError, match="raw_videos is missing"):
        prepare_command(tmp_path / "MS3", 1)
    with pytest.raises(UserError, match="holds 0 of"):
        prepare_command(tmp_path, 1)
