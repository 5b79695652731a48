"""`icf data prepare`: frames, audio and log-mel windows cut like the released ones, in parallel and resumable."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
from clip_maker import make_clip, number_in
from PIL import Image

from icf_avs.datasets.check import check_set
from icf_avs.datasets.clip_files import write_mp4
from icf_avs.datasets.layouts import read_all
from icf_avs.datasets.prepare import cut_frames, frame_numbers, prepare_command, prepare_set
from icf_avs.errors import UserError

pytestmark = pytest.mark.full


def numbers_in(frames: np.ndarray) -> list[int]:
    return [number_in(np.asarray(Image.fromarray(frame).resize((160, 120)))) for frame in frames]


def videos(root: Path, clips: int = 5) -> Path:
    """Write a set with only table, masks and raw videos."""
    names = [f"-video_____{i}"[-11:] for i in range(clips)]
    fixtures.write_ms3(root, [(name, ("train", "test")[i % 2]) for i, name in enumerate(names)])
    (root / "raw_videos").mkdir()
    for seed, name in enumerate(names):
        tone = fixtures.tone(seed, 5) / np.float32(32768)
        make_clip(root / f"raw_videos/{name}.mp4", seconds=5, sound=np.stack([tone, tone / 2]), sound_rate=16_000)
    for folder in ("visual_frames", "audio_wav", "audio_log_mel"):
        shutil.rmtree(root / "ms3_data" / folder)
    return root


@pytest.mark.parametrize(
    ("fps", "seconds", "numbers"),
    [
        (25, 5, [23, 48, 73, 98, 123]),  # 25 * 15/16 = 23.4
        (Fraction(30000, 1001), 5, [28, 58, 88, 118, 148]),  # rounded to 30
        (25, 3.6, [23, 48, 73, 89, 89]),  # a short video repeats its last frame
    ],
)
def test_the_right_frames_are_cut(tmp_path, fps, seconds, numbers) -> None:
    cut = cut_frames(make_clip(tmp_path / "x.mp4", seconds=seconds, fps=fps))
    assert cut.shape == (5, 224, 224, 3) and cut.dtype == np.uint8 and numbers_in(cut) == numbers
    assert frame_numbers(23.976) == [22, 46, 70, 94, 118] and frame_numbers(16) == [15, 31, 47, 63, 79]


def test_frames_are_resized_without_antialiasing(tmp_path) -> None:
    """Against the formula of bilinear sampling at pixel centres, on a large smooth frame."""
    y, x = np.mgrid[:448, :672]
    smooth = np.stack([x * 255 // 671, y * 255 // 447, 128 + 0 * x], -1).astype(np.uint8)
    sharp = np.zeros((448, 448, 3), np.uint8)
    sharp[:, ::4] = sharp[:, 1::4] = 240  # columns in pairs: samples fall between the two of a pair
    cut = []
    for picture in (smooth, sharp):
        write_mp4(tmp_path / "x.mp4", [picture] * 10, picture.shape[1::-1], np.zeros(6400))
        cut.append(cut_frames(tmp_path / "x.mp4")[0])
    want = ((np.arange(224) + 0.5) * 3 - 0.5) * 255 / 671
    assert np.abs(cut[0][..., 0] - want).mean() < 3  # compression error
    assert cut[1][100, ::2].mean() > 220 and cut[1][100, 1::2].mean() < 25  # antialiasing would mix them


def test_a_prepared_set_is_complete(tmp_path) -> None:
    """A second call writes only what is missing; any number of workers gives the same files."""
    root, again = videos(tmp_path / "one"), videos(tmp_path / "two")
    assert check_set(root)[0].problems
    assert prepare_set(root) == {"clips": 5, "written": 5, "errors": []}
    assert not check_set(root)[0].problems
    for record in read_all(root):
        clip, truth = record.load(), fixtures.tone(int(record.name[-1]), 5) * 0.75  # the mean of the channels
        assert numbers_in(clip.frames) == [23, 48, 73, 98, 123]
        assert np.abs(clip.waveform[4000:76_000] * 32768 - truth[4000:76_000]).max() < 400
    assert prepare_set(again, workers=2)["written"] == 5
    files = fixtures.read_files(root, "ms3_data/*/*/*")
    assert fixtures.read_files(again, "ms3_data/*/*/*") == files
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    gone = [next(root.rglob("*.mp4_4.png")), next(root.rglob("*.wav"))]
    for path in gone:
        path.unlink()
    assert prepare_set(root)["written"] in (1, 2)
    assert fixtures.read_files(root, "ms3_data/*/*/*") == files
    assert all((path.stat().st_mtime_ns == time) == (path not in gone) for path, time in times.items())


def test_errors_are_collected_and_named(tmp_path, capsys) -> None:
    root = videos(tmp_path / "set")
    paths = sorted((root / "raw_videos").iterdir())
    paths[0].unlink()
    paths[1].write_bytes(b"no video")
    make_clip(paths[2], seconds=5)
    make_clip(paths[3], seconds=5, sound=np.zeros((1, 24_000), np.float32))
    assert prepare_command(root, 1) == 1
    out = capsys.readouterr().out.splitlines()
    told = ["has no video in raw_videos", "not a video", "has no sound", "less than one window"]
    for line, path, message in zip(out[:4], paths[:4], told, strict=True):
        assert line.startswith(f"clip {path.stem}: ") and message in line
    assert out[4].endswith("5 clips, 1 written now, 0 complete before, 4 not possible") and len(out) == 5
    shutil.rmtree(root / "raw_videos")
    with pytest.raises(UserError, match="raw_videos is missing"):
        prepare_command(root, 1)
    fixtures.write_avss(tmp_path / "AVSS", [("a", "a_0_5000", 0, 0, "class-02", "train", "v1s")])
    with pytest.raises(UserError, match="AVSS set, which has no raw videos"):
        prepare_command(tmp_path / "AVSS", 1)
