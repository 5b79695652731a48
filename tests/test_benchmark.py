"""The writer: layouts as the public sets have them, the same bytes from any number of workers, resumption."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
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


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_single_source_is_laid_out_as_s4(root: Path) -> None:
    base = root / "Single-source"
    table = rows(base / "s4_meta_data.csv")
    assert list(table[0]) == ["name", "start", "category", "split"]
    assert [row["split"] for row in table] == ["train", "val", "test"]
    for row in table:
        name, inner = row["name"], Path(row["split"]) / row["category"]
        assert len(name) == 11
        frames = sorted((base / "s4_data/visual_frames" / inner / name).iterdir())
        assert [path.name for path in frames] == [f"{name}_{i}.png" for i in range(1, 6)]
        assert all(Image.open(path).size == (224, 224) and Image.open(path).mode == "RGB" for path in frames)
        found = sorted((base / "s4_data/gt_masks" / inner / name).iterdir())
        assert len(found) == (1 if row["split"] == "train" else 5)
        for path in found:
            mask = Image.open(path)
            assert mask.mode == "L" and set(np.unique(np.asarray(mask))) == {0, 255}
        assert (base / "s4_data/audio_wav" / inner / f"{name}.wav").is_file()


def test_multi_sources_and_cross_are_laid_out_as_ms3(root: Path) -> None:
    for dataset, splits in (("Multi-sources", ["train", "val", "test"]), ("Cross", ["val", "test"])):
        base = root / dataset
        table = rows(base / "ms3_meta_data.csv")
        assert [(list(row), row["split"]) for row in table] == [(["video_id", "split"], split) for split in splits]
        for row in table:
            name = row["video_id"]
            for i in range(1, 6):
                assert (base / f"ms3_data/visual_frames/{name}/{name}.mp4_{i}.png").is_file()
                assert (base / f"ms3_data/gt_masks/{row['split']}/{name}/{name}_{i}.png").is_file()


def test_the_semantic_set(root: Path) -> None:
    base = root / "AVSS"
    names = json.loads((base / "label2idx.json").read_text())
    assert names["background"] == 0 and sorted(names.values()) == list(range(len(names)))
    table = rows(base / "metadata.csv")
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
            assert Image.open(folder / "frames" / f"{path.stem}.jpg").size == ids.shape[::-1]
            assert min(ids.shape) == 240
            np.testing.assert_array_equal(np.asarray(Image.open(folder / "labels_rgb" / path.name)), palette()[ids])
            found |= set(np.unique(ids).tolist()) - {0}
        assert found <= {names[kind] for kind in row["a_obj"].split("_")}
        assert found


def test_scenes_table_agrees_with_the_masks(root: Path) -> None:
    for dataset in ("Single-source", "Multi-sources", "Cross"):
        records = {record.name: record for split in ("val", "test") for record in _clips(root / dataset, split)}
        for row in rows(root / dataset / "scenes.csv"):
            sounding, onscreen = set(row["sounding"].split()), set(row["onscreen"].split())
            stamps = [stamp.split("|") for stamp in row["stamps"].split(";")]
            assert sounding == {kind for _, kind, seconds in stamps if "1" in seconds} and sounding <= onscreen
            if row["video_id"] in records:
                loaded = records[row["video_id"]].load()
                for second, mask in enumerate(loaded.masks):
                    assert mask.any() == any(seconds[second] == "1" for *_, seconds in stamps)


def _clips(folder: Path, split: str) -> list:
    return [] if (folder.name, split) == ("Cross", "val") else read_set(folder, split)


def test_any_number_of_workers_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_stamps(tmp_path, seed=5, video=False, workers=2, **COUNTS)
    assert contents(tmp_path) == contents(root)


def test_a_second_call_writes_only_what_is_missing(root: Path) -> None:
    before = contents(root)
    records = sorted((root / "Multi-sources/.clips").iterdir())
    name = records[0].stem
    records[0].unlink()
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*.wav")}
    write_stamps(root, seed=5, video=False, workers=1, **COUNTS)
    assert contents(root) == before
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed and all(name in str(path) for path in changed)


def test_clips_of_other_settings_are_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run that was interrupted at its first clip."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("icf_avs.synthetic.benchmark.write_mp4", interrupted)
        write_stamps(tmp_path, seed=5, test=1)
    with pytest.raises(UserError, match="holds clips of another --seed, or of more than are asked for; choose"):
        write_stamps(tmp_path, seed=6, test=1, video=False)
    write_stamps(tmp_path, seed=5, test=2, video=False)  # more of the same goes on
    listed = {record.name for record in read_set(tmp_path / "Single-source", "test")}
    assert {path.stem for path in (tmp_path / "Single-source").rglob("*.wav")} == listed


def test_video(tmp_path: Path) -> None:
    write_stamps(tmp_path, seed=5, test=1, video=True)
    record = read_set(tmp_path / "Multi-sources", "test")[0]
    assert record.video_path is not None
    with av.open(str(record.video_path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert min(video.width, video.height) == 240 and video.average_rate == 25
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
    assert len(pictures) == 125
    loaded = record.load()
    for second in (0, 4):
        picture = Image.fromarray(pictures[25 * second + 23]).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(picture, np.float32) - loaded.frames[second]).mean() < 12


def test_a_video_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    scene = sample_scene(load_catalog(), "test", 0)
    pictures = [render_frame(scene, number / 25, (320, 240))[0] for number in range(20)]
    rng = np.random.default_rng(0)
    written = set()
    for _ in range(6):
        # Stir the memory that the encoder is given: what it leaves uninitialised must not matter.
        stirred = [rng.integers(0, 256, rng.integers(1000, 3_000_000), dtype=np.uint8) for _ in range(6)]
        del stirred
        write_mp4(tmp_path / "x.mp4", pictures, (320, 240), np.zeros(12_800, np.int16))
        written.add((tmp_path / "x.mp4").read_bytes())
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_stamps(tmp_path / "file" / "out", test=1, video=False)
    with pytest.raises(ValueError, match="negative"):
        write_stamps(tmp_path / "out", test=-1)
