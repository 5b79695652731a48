"""Batches of the public sets: partial labels, padding, which kind sounds where."""

from __future__ import annotations

import shutil
from pathlib import Path

import avsbench_fixtures as fixtures
import numpy as np
import pytest
import torch
from PIL import Image
from public_sets import AVSS, SPEC
from torch.utils.data import DataLoader

from icf_avs.datasets.dataset import ClipDataset, collate
from icf_avs.datasets.layouts import class_names, read_set
from icf_avs.errors import UserError
from icf_avs.media.audio_windows import cut_windows
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
    np.testing.assert_allclose(
        batch.waveforms[0], cut_windows(clip.samples.astype(np.float32) / 32768, SPEC, 5), atol=1e-6
    )


def test_a_batch_of_ms3_names_a_pixel_only_where_one_kind_is_known(home) -> None:
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
    # unlabelled frames have the kinds of the table, labelled ones those of their class ids
    assert train.sounding[0].sum(1).tolist() == [1] * 5 + [0] * 5
    assert train.sounding[3, 4].nonzero().flatten().tolist() == [69]


def test_a_batch_of_stamps_has_what_is_in_the_picture_and_kinds_by_the_second(stamps_sets) -> None:
    for folder in ("Single-source", "Multi-sources", "AVSS"):
        root = stamps_sets / folder
        dataset = items(root, "test")
        batch = collate([*dataset])
        assert batch.onscreen.shape == (len(dataset), len(dataset.names))
        for row, record in enumerate(dataset.records):
            assert {dataset.names[i] for i in batch.onscreen[row].nonzero().flatten()} == record.onscreen
            assert {dataset.names[i] for i in batch.sounding[row].any(0).nonzero().flatten()} == record.sounding
        assert (batch.sounding.any(2) >= (batch.masks > 0).flatten(2).any(2)).all()


def test_a_clip_without_its_pictures_is_the_same_in_all_else(home, tmp_path) -> None:
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


def test_log_mel_in_a_batch(home) -> None:
    batch = collate([*items(home[0] / "Single-source", "train", audio="log_mel")])
    assert batch.log_mel.shape == (2, 5, 96, 64) and batch.waveforms.shape == (2, 5, 0)
    assert batch.sound is batch.log_mel


def test_a_class_id_without_a_name(tmp_path) -> None:
    fixtures.write_avss(tmp_path, AVSS[-1:])
    with pytest.raises(UserError, match=r"class id 70 is out of range, label2idx\.json names 0 to 3"):
        ClipDataset(read_set(tmp_path, "test"), ("a", "b", "c"), SPEC)[0]
    with pytest.raises(ValueError, match="stride"):
        ClipDataset([], (), ClipSpec(image_size=226))
