"""Batches of a run on a public set: their order, what each stage is given, and pictures that are encoded once."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from avsbench_fixtures import write_avss, write_s4

from icf_avs.config import BenchmarkConfig, ModelConfig, TrainConfig
from icf_avs.datasets import dataset
from icf_avs.datasets.layouts import read_set
from icf_avs.encoders.registry import build_visual
from icf_avs.training.benchmark_data import BenchmarkData

TRAINED = ModelConfig(visual="resnet-50", train_visual=True)


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    root = tmp_path / "Single-source"
    write_s4(root, [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(("train", "train", "train", "val"))])
    return root


def config(model: ModelConfig, **changes: object) -> TrainConfig:
    return replace(
        TrainConfig("x", model), benchmark=BenchmarkConfig("S4"), batch=10, seed=3, audio_pretrain_steps=0, **changes
    )


def test_every_clip_is_seen_once_an_epoch(s4: Path) -> None:
    data = BenchmarkData(config(TRAINED), s4, 1)
    assert data.size == 2 and len(data.clips) == 3 and data.features is None
    clips = [frames.float().mean().item() for step in range(3) for frames in data.batch(step).frames]
    assert sorted(clips[:3]) == sorted(clips[3:]) and len(set(clips)) == 3
    whole, parts = data.batch(5), [data.batch(5, part, 2) for part in range(2)]
    assert torch.equal(whole.waveforms[0], parts[0].waveforms[0]) and torch.equal(
        whole.waveforms[1], parts[1].waveforms[0]
    )


def test_naming_sounds_takes_no_pictures(s4: Path) -> None:
    """The same clips as with pictures, though there are none on the disk any more."""
    expected = [BenchmarkData(config(TRAINED), s4, 1).batch(step) for step in range(2)]
    data = BenchmarkData(replace(config(TRAINED), audio_pretrain_steps=2), s4, 2)
    shutil.rmtree(s4 / "s4_data" / "visual_frames")
    for step, batch in enumerate(expected):
        taught = data.batch(step)
        assert taught.frames is None and taught.pyramid == []
        assert torch.equal(taught.waveforms, batch.waveforms) and torch.equal(taught.sounding, batch.sounding)
    with pytest.raises(Exception, match="visual_frames is missing"):
        data.batch(2)


def test_a_frozen_encoder_sees_each_picture_once(s4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    data = BenchmarkData(config(ModelConfig()), s4, 2)
    first = data.batch(0)
    assert first.frames is None and [level.shape[:3] for level in first.pyramid] == [
        (2, 5, width) for width in (24, 40, 112, 320)
    ]
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


def test_without_room_pictures_are_encoded_each_time(s4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    disk = namedtuple("disk", "free")
    monkeypatch.setattr(dataset.shutil, "disk_usage", lambda folder: disk(free=2**30))
    data = BenchmarkData(config(ModelConfig()), s4, 1)
    assert data.features is None and data.batch(0).frames.shape == (2, 5, 224, 224, 3)


def test_clips_of_five_and_of_ten_frames(tmp_path: Path) -> None:
    rows = [(f"v{i}", f"v{i}_0_5000", 0, 0, "class-01", "train", label) for i, label in enumerate(("v1m", "v2"))]
    write_avss(tmp_path, rows)
    encoder = build_visual("efficientnet-lite0")
    records = read_set(tmp_path, "train")
    kept = dataset.FrameFeatures(records, encoder, 64, tmp_path)
    for index in (1, 0, 1):
        levels = kept(index)
        frames = torch.from_numpy(records[index].load(64).frames)
        assert [level.shape[0] for level in levels] == [len(frames)] * 4
        with torch.inference_mode():
            torch.testing.assert_close(levels[3], encoder(frames)[3], rtol=2e-3, atol=2e-2)
