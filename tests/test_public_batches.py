"""Batches of the public sets: partial labels, padding, sounding classes; and the batches of a run, in order."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from PIL import Image
from public_sets import AVSS, SPEC
from torch.utils.data import DataLoader

from icf_avs.config import BenchmarkConfig, ModelConfig, TrainConfig
from icf_avs.datasets.dataset import ClipDataset, FrameFeatures, collate
from icf_avs.datasets.layouts import class_names, read_set
from icf_avs.encoders.registry import build_visual
from icf_avs.errors import UserError
from icf_avs.media.audio_windows import cut_windows
from icf_avs.training.benchmark_data import BenchmarkData
from icf_avs.types import ClipSpec


def items(root: Path, split: str, **options) -> ClipDataset:
    return ClipDataset(read_set(root, split), class_names(root), SPEC, **options)


def test_a_batch_of_s4(home) -> None:
    root, written = home
    batch = collate([*items(root / "Single-source", "train")])
    assert batch.pyramid == [] and batch.onscreen is None and batch.log_mel is None
    assert batch.frames.shape == (2, 5, 224, 224, 3) and batch.frames.dtype == torch.uint8
    assert batch.waveforms.shape == (2, 5, 15_600) and batch.waveforms.dtype == torch.float32
    assert batch.labelled.tolist() == [[True] + [False] * 4] * 2 and batch.valid.all()
    assert batch.sounding.shape == (2, 5, 70)
    assert batch.sounding.nonzero()[:, 2].unique().tolist() == [2, 6]
    clip = written["-dog_______"]
    mask = clip.masks[0].reshape(56, 4, 56, 4)
    np.testing.assert_allclose(batch.masks[0, 0], mask.mean((1, 3)))
    np.testing.assert_array_equal(batch.class_map[0, 0], 7 * clip.masks[0])
    assert batch.class_map.dtype == torch.long and batch.masks.dtype == torch.float32
    assert not batch.masks[:, 1:].any() and not batch.class_map[:, 1:].any()
    np.testing.assert_array_equal(batch.frames[0, 3], clip.frames[3])
    wave = clip.samples.astype(np.float32) / 32768
    np.testing.assert_allclose(batch.waveforms[0], cut_windows(wave, SPEC, 5), atol=1e-6)


def test_a_batch_of_ms3_has_class_ids_only_for_a_single_known_class(home) -> None:
    root, _ = home
    (one,) = items(root / "Multi-sources", "test")
    assert one.masks[:4].any((1, 2)).all() and not one.masks[4].any()
    assert one.class_map.flatten(1).amax(1).tolist() == [70] * 4 + [0]
    assert one.sounding.sum(1).tolist() == [1] * 4 + [0]
    (two,) = items(root / "Multi-sources", "train")
    assert not two.class_map.any() and two.sounding.sum(1).tolist() == [2] * 4 + [0]
    (none,) = items(root / "Multi-sources", "val")
    assert not none.class_map.any() and not none.sounding.any()


def test_a_batch_of_avss_mixes_five_and_ten_frames(home) -> None:
    root, written = home
    dataset = items(root / "AVSS", "test")
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=collate)
    assert batch.valid.sum(1).tolist() == [5, 5, 10] == batch.labelled.sum(1).tolist()
    for values in (batch.frames, batch.waveforms, batch.masks, batch.class_map, batch.sounding):
        assert len(values) == 3 and not values[:2, 5:].any() and values[2].flatten(1).any(1).all()
    assert [ids.unique().tolist() for ids in batch.class_map] == [[0, 7], [0, 70], [0, 70]]
    small = np.asarray(Image.fromarray(written[dataset.records[2].name].masks[9]).resize((224, 224), Image.NEAREST))
    np.testing.assert_array_equal(batch.class_map[2, 9], small)
    train = collate([*items(root / "AVSS", "train")])
    assert train.labelled.sum(1).tolist() == [1, 1, 5, 10]
    # unlabelled frames have the classes of the table, labelled frames those of their masks
    assert train.sounding[0].sum(1).tolist() == [1] * 5 + [0] * 5
    assert train.sounding[3, 4].nonzero().flatten().tolist() == [69]


def test_a_batch_of_stamps_has_onscreen_and_sounding_classes(stamps_sets) -> None:
    for folder in ("Single-source", "Multi-sources", "AVSS"):
        root = stamps_sets / folder
        dataset = items(root, "test")
        batch = collate([*dataset])
        assert batch.onscreen.shape == (len(dataset), len(dataset.names))
        for row, record in enumerate(dataset.records):
            assert {dataset.names[i] for i in batch.onscreen[row].nonzero().flatten()} == record.onscreen
            assert {dataset.names[i] for i in batch.sounding[row].any(0).nonzero().flatten()} == record.sounding
        assert (batch.sounding.any(2) >= (batch.masks > 0).flatten(2).any(2)).all()


def test_a_clip_loaded_without_frames_is_otherwise_equal(home, tmp_path) -> None:
    for folder in ("Single-source", "Multi-sources", "AVSS"):
        root = Path(shutil.copytree(home[0] / folder, tmp_path / folder))
        dataset = items(root, "train")
        whole = [dataset.clip(index) for index in range(len(dataset))]
        for path in (*root.rglob("visual_frames"), *root.rglob("frames")):
            shutil.rmtree(path)
        for index, clip in enumerate(whole):
            blind = dataset.clip(index, with_frames=False)
            assert blind.frames is None and clip.frames is not None
            for name in ("waveforms", "masks", "class_map", "labelled", "sounding"):
                assert torch.equal(getattr(blind, name), getattr(clip, name)), name
        batch = collate([dataset.clip(index, with_frames=False) for index in range(len(dataset))])
        assert batch.frames is None and batch.pyramid == [] and batch.valid.any(1).all()
    with pytest.raises(ValueError, match="native size"):
        dataset.records[0].load(size=None, with_frames=False)


def test_class_ids_without_name_are_refused(tmp_path) -> None:
    fixtures.write_avss(tmp_path, AVSS[-1:])
    with pytest.raises(UserError, match=r"class id 70 is out of range, label2idx\.json names 0 to 3"):
        ClipDataset(read_set(tmp_path, "test"), ("a", "b", "c"), SPEC)[0]
    with pytest.raises(ValueError, match="stride"):
        ClipDataset([], (), ClipSpec(image_size=226))


TRAINED = ModelConfig(visual="resnet-50", train_visual=True)


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    root = tmp_path / "Single-source"
    splits = ("train", "train", "train", "val")
    fixtures.write_s4(root, [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(splits)])
    return root


def config(model: ModelConfig, **changes: object) -> TrainConfig:
    return TrainConfig("x", model, benchmark=BenchmarkConfig("S4"), batch=10, seed=3, audio_pretrain_steps=0, **changes)


def test_every_clip_is_seen_once_per_epoch(s4: Path) -> None:
    data = BenchmarkData(config(TRAINED), s4, 1)
    assert data.size == 2 and len(data.clips) == 3 and data.features is None
    clips = [frames.float().mean().item() for step in range(3) for frames in data.batch(step).frames]
    assert sorted(clips[:3]) == sorted(clips[3:]) and len(set(clips)) == 3
    whole, parts = data.batch(5), [data.batch(5, part, 2) for part in range(2)]
    assert all(torch.equal(wave, part.waveforms[0]) for wave, part in zip(whole.waveforms, parts, strict=True))


def test_audio_pretraining_reads_no_frames(s4: Path) -> None:
    """The same clips as with frames, although the frames have been deleted from disk."""
    expected = [BenchmarkData(config(TRAINED), s4, 1).batch(step) for step in range(2)]
    data = BenchmarkData(replace(config(TRAINED), audio_pretrain_steps=2), s4, 2)
    shutil.rmtree(s4 / "s4_data" / "visual_frames")
    for step, batch in enumerate(expected):
        taught = data.batch(step)
        assert taught.frames is None and taught.pyramid == []
        assert torch.equal(taught.waveforms, batch.waveforms) and torch.equal(taught.sounding, batch.sounding)
    with pytest.raises(Exception, match="visual_frames is missing"):
        data.batch(2)


def test_features_of_a_frozen_encoder_are_cached(s4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    data = BenchmarkData(config(ModelConfig()), s4, 2)
    first = data.batch(0)
    assert first.frames is None
    assert [level.shape[:3] for level in first.pyramid] == [(2, 5, width) for width in (24, 40, 112, 320)]
    shown = BenchmarkData(config(TRAINED), s4, 1).batch(0)
    with torch.inference_mode():
        levels = build_visual("efficientnet-lite0")(shown.frames.flatten(0, 1))
    for found, level in zip(first.pyramid, levels, strict=True):
        assert torch.equal(found.flatten(0, 1), found.flatten(0, 1).half().float()), "the same when it is read again"
        torch.testing.assert_close(found.flatten(0, 1), level, rtol=2e-3, atol=2e-2)
    assert torch.equal(first.masks, shown.masks) and torch.equal(first.waveforms, shown.waveforms)
    again = [data.batch(step) for step in range(3)]
    shutil.rmtree(s4 / "s4_data" / "visual_frames")
    for step, batch in enumerate(again):
        assert all(torch.equal(a, b) for a, b in zip(data.batch(step).pyramid, batch.pyramid, strict=True))
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*")), "the file has no name"


def test_without_disk_space_features_are_not_cached(s4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    disk = namedtuple("disk", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk(free=2**30))
    data = BenchmarkData(config(ModelConfig()), s4, 1)
    assert data.features is None and data.batch(0).frames.shape == (2, 5, 224, 224, 3)


def test_cached_features_of_clips_of_different_length(tmp_path: Path) -> None:
    rows = [(f"v{i}", f"v{i}_0_5000", 0, 0, "class-01", "train", label) for i, label in enumerate(("v1m", "v2"))]
    fixtures.write_avss(tmp_path, rows)
    encoder = build_visual("efficientnet-lite0")
    records = read_set(tmp_path, "train")
    kept = FrameFeatures(records, encoder, 64, tmp_path)
    for index in (1, 0, 1):
        levels = kept(index)
        frames = torch.from_numpy(records[index].load(64).frames)
        assert [level.shape[0] for level in levels] == [len(frames)] * 4
        with torch.inference_mode():
            torch.testing.assert_close(levels[3], encoder(frames)[3], rtol=2e-3, atol=2e-2)
