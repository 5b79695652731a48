"""Written sets: `icf data prepare` cuts frames and audio like the released ones; Stamps has the public layouts."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import avsbench_fixtures as fixtures
import numpy as np
import pytest
from avsbench_fixtures import read_files
from clip_maker import make_clip, number_in
from PIL import Image

from icf_avs.datasets.check import check_set
from icf_avs.datasets.clip_files import write_mp4
from icf_avs.datasets.layouts import class_names, read_all, read_set
from icf_avs.datasets.prepare import cut_frames, frame_numbers, prepare_command, prepare_set
from icf_avs.errors import UserError
from icf_avs.output.class_overlay import palette
from icf_avs.synthetic.benchmark import write_stamps

pytestmark = pytest.mark.full


def numbers_in(frames: np.ndarray) -> list[int]:
    return [number_in(np.asarray(Image.fromarray(frame).resize((160, 120)))) for frame in frames]


def test_the_right_frames_are_cut(tmp_path) -> None:
    for fps, seconds, numbers in (
        (25, 5, [23, 48, 73, 98, 123]),  # 25 * 15/16 = 23.4
        (Fraction(30000, 1001), 5, [28, 58, 88, 118, 148]),  # rounded to 30
        (25, 3.6, [23, 48, 73, 89, 89]),  # a short video repeats its last frame
    ):
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


def videos(root: Path, clips: int) -> Path:
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


def test_a_prepared_set_is_complete(tmp_path) -> None:
    """A second call writes what is missing; any number of workers gives the same files."""
    root = videos(tmp_path / "set", 3)
    assert prepare_set(root) == {"clips": 3, "written": 3, "errors": []}
    assert not check_set(root)[0].problems
    for record in read_all(root):
        clip, truth = record.load(), fixtures.tone(int(record.name[-1]), 5) * 0.75  # the mean of the channels
        assert numbers_in(clip.frames) == [23, 48, 73, 98, 123]
        assert np.abs(clip.waveform[4000:76_000] * 32768 - truth[4000:76_000]).max() < 400
    files = read_files(root, "ms3_data/*/*/*")
    for path in (next(root.rglob("*0.mp4_4.png")), next(root.rglob("*1.wav"))):
        path.unlink()
    assert prepare_set(root, workers=2)["written"] == 2
    assert read_files(root, "ms3_data/*/*/*") == files


def test_errors_are_collected_and_named(tmp_path, capsys) -> None:
    root = videos(tmp_path / "set", 5)
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
    fixtures.write_avss(tmp_path / "AVSS", [("a", "a_0_5000", 0, 0, "class-02", "train", "v1s")])
    with pytest.raises(UserError, match="AVSS set, which has no raw videos"):
        prepare_command(tmp_path / "AVSS", 1)


COUNTS = {"train": 1, "val": 1, "test": 1, "cross": 1, "cross_val": 1}
SETS = {
    "Single-source": ("s4_meta_data.csv", fixtures.write_s4),
    "Multi-sources": ("ms3_meta_data.csv", fixtures.write_ms3),
    "Cross": ("ms3_meta_data.csv", fixtures.write_ms3),
    "AVSS": ("metadata.csv", fixtures.write_avss),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stamps")
    write_stamps(out, seed=5, video=False, workers=1, **COUNTS)
    return out


@pytest.mark.parametrize("dataset", SETS)
def test_stamps_have_the_files_of_the_public_layout_and_agree(root: Path, tmp_path: Path, dataset: str) -> None:
    table, write = SETS[dataset]
    rows = [tuple(row.values()) for row in fixtures.read_table(root / dataset / table)]
    write(tmp_path, rows, *([tuple(json.loads((root / "AVSS/label2idx.json").read_text()))] * (dataset == "AVSS")))
    expected = {name for name in read_files(tmp_path) if "log_mel" not in name}
    assert {name for name in read_files(root / dataset) if not name.startswith((".clips", "scenes.csv"))} == expected
    records, names = read_all(root / dataset), ("", *class_names(root / dataset))
    splits = {record.split for record in records}
    assert {"val", "test"} <= splits and ("train" in splits) == (dataset != "Cross")
    for record in records:
        clip = record.load(None)
        assert record.sounding == set().union(*record.sounding_by_second) <= record.onscreen
        assert len(clip.waveform) == 80_000 and (dataset == "AVSS" or clip.frames.shape == (5, 224, 224, 3))
        for mask, labelled, sounding in zip(clip.masks, clip.labelled, record.sounding_by_second, strict=True):
            assert not labelled or mask.any() == bool(sounding)
            assert dataset != "AVSS" or {names[number] for number in np.unique(mask) if number} <= sounding
        if dataset == "AVSS":
            colours = record.frame_paths[0].parents[1] / "labels_rgb/0.png"
            np.testing.assert_array_equal(np.asarray(Image.open(colours)), palette()[clip.masks[0]])
            assert min(clip.masks[0].shape) == 240


def test_any_number_of_workers_gives_the_same_bytes_and_missing_clips_are_written(root: Path, tmp_path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    for record in (tmp_path / "Multi-sources/.clips").iterdir():
        record.unlink()
    for path in (tmp_path / "Multi-sources").rglob("*.wav"):
        path.unlink()
    write_stamps(tmp_path, seed=5, video=False, workers=2, **COUNTS)
    assert read_files(tmp_path) == read_files(root)
    assert not any(report.problems for report in check_set(tmp_path))


def test_an_interrupted_set_is_completed_with_its_settings_alone(tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("icf_avs.synthetic.benchmark.write_mp4", interrupted)
        write_stamps(tmp_path, seed=5, test=1)
    with pytest.raises(UserError, match="holds clips of another --seed"):
        write_stamps(tmp_path, seed=6, test=1, video=False)
    write_stamps(tmp_path, seed=5, test=2)  # the same seed may be extended
    listed = {record.name for record in read_set(tmp_path / "Single-source", "test")}
    assert {path.stem for path in (tmp_path / "Single-source").rglob("*.wav")} == listed
    record = read_set(tmp_path / "Multi-sources", "test")[0]
    with av.open(str(record.video_path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 125
    for second, frame in enumerate(record.load().frames):
        picture = Image.fromarray(pictures[25 * second + 23]).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(picture, np.float32) - frame).mean() < 12
