"""Stamps writer: public layouts, identical bytes for any number of workers, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from avsbench_fixtures import read_files, read_table
from avsbench_oracle import plain_read
from PIL import Image

from icf_avs.datasets.clip_files import write_mp4
from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.output.class_overlay import palette
from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.synthetic.catalog import load_catalog
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene_sampler import sample_scene

pytestmark = pytest.mark.full

COUNTS = {"train": 1, "val": 1, "test": 1, "cross": 1, "cross_val": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stamps")
    write_stamps(out, seed=5, video=False, workers=1, **COUNTS)
    return out


@pytest.mark.parametrize(
    ("dataset", "table", "columns", "splits"),
    [
        ("Single-source", "s4_meta_data.csv", ["name", "start", "category", "split"], ["train", "val", "test"]),
        ("Multi-sources", "ms3_meta_data.csv", ["video_id", "split"], ["train", "val", "test"]),
        ("Cross", "ms3_meta_data.csv", ["video_id", "split"], ["val", "test"]),
    ],
)
def test_s4_and_ms3_layouts(root: Path, dataset: str, table: str, columns: list, splits: list) -> None:
    """An independent reader finds every file; scenes.csv agrees with the masks."""
    lines, scenes = read_table(root / dataset / table), read_table(root / dataset / "scenes.csv")
    assert [(list(line), line["split"]) for line in lines] == [(columns, split) for split in splits]
    for line, scene in zip(lines, scenes, strict=True):
        ((name, clip),) = plain_read(root / dataset, line["split"]).items()
        assert name == line[columns[0]] == scene["video_id"] and len(name) == 11
        assert clip["frames"].shape == (5, 224, 224, 3) and len(clip["samples"]) == 80_000
        assert len(clip["masks"]) == (1 if (dataset, line["split"]) == ("Single-source", "train") else 5)
        assert clip["masks"].shape[1:] == (224, 224) and set(np.unique(clip["masks"])) <= {0, 255}
        sounding, onscreen = set(scene["sounding"].split()), set(scene["onscreen"].split())
        stamps = [stamp.split("|") for stamp in scene["stamps"].split(";")]
        assert sounding == {kind for _, kind, seconds in stamps if "1" in seconds} and sounding <= onscreen
        for second, mask in enumerate(clip["masks"]):
            assert mask.any() == any(seconds[second] == "1" for *_, seconds in stamps)


def test_avss_layout(root: Path) -> None:
    base = root / "AVSS"
    names = json.loads((base / "label2idx.json").read_text())
    assert names["background"] == 0 and sorted(names.values()) == list(range(len(names)))
    table = read_table(base / "metadata.csv")
    assert list(table[0]) == ["vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"]
    assert [row["label"] for row in table] == ["v1s"] * 3 + ["v1m"] * 3
    for row in table:
        folder = base / row["label"] / row["uid"]
        labels = sorted((folder / "labels_semantic").iterdir())
        assert len(labels) == (1 if (row["label"], row["split"]) == ("v1s", "train") else 5)
        assert len(list((folder / "frames").iterdir())) == 5
        found = set()
        for path in labels:
            ids = np.asarray(Image.open(path))
            assert Image.open(folder / "frames" / f"{path.stem}.jpg").size == ids.shape[::-1] and min(ids.shape) == 240
            np.testing.assert_array_equal(np.asarray(Image.open(folder / "labels_rgb" / path.name)), palette()[ids])
            found |= set(np.unique(ids).tolist()) - {0}
        assert found and found <= {names[kind] for kind in row["a_obj"].split("_")}


def test_any_number_of_workers_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_stamps(tmp_path, seed=5, video=False, workers=2, **COUNTS)
    assert read_files(tmp_path) == read_files(root)


def test_a_second_call_writes_only_what_is_missing(root: Path) -> None:
    before = read_files(root)
    record = min((root / "Multi-sources/.clips").iterdir())
    record.unlink()
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.wav")}
    write_stamps(root, seed=5, video=False, workers=1, **COUNTS)
    assert read_files(root) == before
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed and all(record.stem in str(path) for path in changed)


def test_clips_of_other_settings_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a run that was interrupted at its first clip."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("icf_avs.synthetic.benchmark.write_mp4", interrupted)
        write_stamps(tmp_path, seed=5, test=1)
    with pytest.raises(UserError, match="holds clips of another --seed, or of more than are asked for; choose"):
        write_stamps(tmp_path, seed=6, test=1, video=False)
    write_stamps(tmp_path, seed=5, test=2, video=False)  # the same seed may be extended
    listed = {record.name for record in read_set(tmp_path / "Single-source", "test")}
    assert {path.stem for path in (tmp_path / "Single-source").rglob("*.wav")} == listed


def test_mp4_files(tmp_path: Path) -> None:
    write_stamps(tmp_path, seed=5, test=1, video=True)
    record = read_set(tmp_path / "Multi-sources", "test")[0]
    with av.open(str(record.video_path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert min(video.width, video.height) == 240 and video.average_rate == 25
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
    assert len(pictures) == 125
    for second, frame in enumerate(record.load().frames):
        picture = Image.fromarray(pictures[25 * second + 23]).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(picture, np.float32) - frame).mean() < 12


def test_a_video_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    scene = sample_scene(load_catalog(), "test", 0)
    pictures = [render_frame(scene, number / 25, (320, 240))[0] for number in range(20)]
    rng, written = np.random.default_rng(0), set()
    for _ in range(6):
        # Fill freed memory with noise: what the encoder leaves uninitialised must not matter.
        stirred = [rng.integers(0, 256, rng.integers(1000, 3_000_000), dtype=np.uint8) for _ in range(6)]
        del stirred
        write_mp4(tmp_path / "x.mp4", pictures, (320, 240), np.zeros(12_800, np.int16))
        written.add((tmp_path / "x.mp4").read_bytes())
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_stamps(tmp_path / "file" / "out", test=1, video=False)
    with pytest.raises(ValueError, match="negative"):
        write_stamps(tmp_path / "out", test=-1)
