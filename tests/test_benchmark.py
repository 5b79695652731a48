"""Stamps writer: public layouts, identical bytes for any number of workers, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from avsbench_fixtures import read_files, read_table, write_avss, write_ms3, write_s4
from PIL import Image

from icf_avs.datasets.clip_files import write_mp4
from icf_avs.datasets.layouts import class_names, read_all, read_set
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


SETS = {
    "Single-source": ("s4_meta_data.csv", write_s4),
    "Multi-sources": ("ms3_meta_data.csv", write_ms3),
    "Cross": ("ms3_meta_data.csv", write_ms3),
    "AVSS": ("metadata.csv", write_avss),
}


@pytest.mark.parametrize("dataset", SETS)
def test_files_are_those_of_the_public_layout_and_agree(root: Path, tmp_path: Path, dataset: str) -> None:
    table, write = SETS[dataset]
    rows = [tuple(row.values()) for row in read_table(root / dataset / table)]
    names = [tuple(json.loads((root / "AVSS/label2idx.json").read_text()))] if dataset == "AVSS" else []
    write(tmp_path, rows, *names)
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


def test_any_number_of_workers_gives_the_same_bytes_and_only_missing_clips_are_written(root: Path, tmp_path) -> None:
    write_stamps(tmp_path, seed=5, video=False, workers=2, **COUNTS)
    assert read_files(tmp_path) == read_files(root)
    record = min((tmp_path / "Multi-sources/.clips").iterdir())
    record.unlink()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    write_stamps(tmp_path, seed=5, video=False, workers=1, **COUNTS)
    assert read_files(tmp_path) == read_files(root)
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed and all(record.stem in str(path) for path in changed)


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
