"""Sets in the released layouts: written by the fixtures, read by us and by an independent reader."""

from __future__ import annotations

import avsbench_fixtures as fixtures
import numpy as np
import pytest
from avsbench_oracle import plain_read
from public_sets import S4

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("folder", ["Single-source", "Multi-sources", "AVSS"])
def test_an_independent_reader_reads_what_the_writer_wrote(home, folder, split) -> None:
    root, written = home
    for name, clip in plain_read(root / folder, split).items():
        truth = written[name]
        scale = 1 if folder == "AVSS" else 255
        np.testing.assert_array_equal(clip["masks"], np.stack(truth.masks)[: len(clip["masks"])] * np.uint8(scale))
        np.testing.assert_array_equal(clip["samples"], truth.samples)
        error = np.abs(clip["frames"].astype(int) - np.stack(truth.frames)).mean()
        assert error == 0 if folder != "AVSS" else error < 3  # JPEG


@pytest.mark.parametrize("folder", ["Single-source", "Multi-sources", "AVSS"])
@pytest.mark.parametrize("source", ["fixtures", "stamps"])
def test_we_read_what_the_independent_reader_reads(home, stamps_sets, source, folder) -> None:
    root = (home[0] if source == "fixtures" else stamps_sets) / folder
    clips = 0
    for split in ("train", "test"):
        plain = plain_read(root, split)
        records = read_set(root, split)
        assert {record.name for record in records} == set(plain)
        for record in records:
            clip, truth = record.load(size=None), plain[record.name]
            np.testing.assert_array_equal(clip.frames, truth["frames"])
            masks = truth["masks"] if record.layout == "AVSS" else truth["masks"] // 255
            assert clip.labelled.tolist() == [i < len(masks) for i in range(len(clip.frames))]
            np.testing.assert_array_equal(clip.masks[: len(masks)], masks)
            np.testing.assert_allclose(clip.waveform * 32768, truth["samples"], atol=0.01)
            assert clip.log_mel is None
            assert (clip.class_ids is clip.masks) == (record.layout == "AVSS")
            clips += 1
    assert clips >= 2


def test_native_size(home, tmp_path) -> None:
    record = next(
        record for record in read_set(home[0] / "AVSS", "test") if record.frame_paths[0].parents[2].name == "v2"
    )
    native, squashed = record.load(None), record.load()
    assert native.frames.shape == (10, 144, 256, 3) and native.masks.shape == (10, 144, 256)
    assert squashed.frames.shape == (10, 224, 224, 3) and squashed.masks.max() == 70
    assert record.load(96).masks.shape == (10, 96, 96)
    fixtures.write_s4(tmp_path, S4[-1:])
    (record,) = read_set(tmp_path, "test")
    for path in record.frame_paths:
        fixtures.write_picture(path, np.zeros((300, 400, 3), np.uint8))
    assert record.load(None).masks.shape == (5, 300, 400)
    fixtures.write_picture(record.frame_paths[3], np.zeros((301, 400, 3), np.uint8))
    assert record.load().frames.shape == (5, 224, 224, 3)
    with pytest.raises(UserError, match="frames of one clip are 400x300 and 400x301"):
        record.load(None)
