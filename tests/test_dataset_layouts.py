"""Released layouts: written by the fixtures, read by us and by an independent reader; class names."""

from __future__ import annotations

import json

import avsbench_fixtures as fixtures
import numpy as np
import pytest
from avsbench_oracle import plain_read
from PIL import Image
from public_sets import AVSS, MS3, S4

from icf_avs.datasets.layouts import class_names, read_all, read_set
from icf_avs.datasets.metadata import read_labels
from icf_avs.errors import UserError


@pytest.mark.parametrize("folder", ["Single-source", "Multi-sources", "AVSS"])
@pytest.mark.parametrize("source", ["fixtures", "stamps"])
def test_our_reader_equals_an_independent_one(home, stamps_sets, source, folder) -> None:
    root, written = (home[0] if source == "fixtures" else stamps_sets) / folder, home[1]
    for split in ("train", "val", "test") if source == "fixtures" else ("train", "test"):
        plain = plain_read(root, split)
        records = read_set(root, split) if plain else []
        assert {record.name for record in records} == set(plain)
        for record in records:
            clip, found = record.load(size=None), plain[record.name]
            masks = found["masks"] if record.layout == "AVSS" else found["masks"] // 255
            np.testing.assert_array_equal(clip.frames, found["frames"])
            assert clip.labelled.tolist() == [i < len(masks) for i in range(len(clip.frames))]
            np.testing.assert_array_equal(clip.masks[: len(masks)], masks)
            np.testing.assert_allclose(clip.waveform * 32768, found["samples"], atol=0.01)
            assert clip.log_mel is None and (clip.class_ids is clip.masks) == (record.layout == "AVSS")
            if source == "fixtures":
                truth = written[record.name]
                np.testing.assert_array_equal(masks, np.stack(truth.masks)[: len(masks)])
                np.testing.assert_array_equal(found["samples"], truth.samples)
                error = np.abs(clip.frames.astype(int) - np.stack(truth.frames)).mean()
                assert error == 0 if folder != "AVSS" else error < 3  # JPEG


def test_native_size(home, tmp_path) -> None:
    records = read_set(home[0] / "AVSS", "test")
    record = next(record for record in records if record.frame_paths[0].parents[2].name == "v2")
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


def test_avss_gives_the_classes_of_s4_and_ms3(home, tmp_path) -> None:
    root, _ = home
    kinds = {record.name: record.sounding for record in read_all(root / "Single-source")}
    assert kinds == {"-dog_______": {"class-07"}, "_cat_______": {"class-03"}, "cat-val____": {"class-03"},
                     "dog-test___": {"class-07"}}  # fmt: skip
    kinds = {record.name: record.sounding for record in read_all(root / "Multi-sources")}
    assert kinds == {"-video_____": {"class-03", "class-07"}, "video-val__": None, "video-test_": {"woman"}}
    assert class_names(root / "Single-source") == class_names(root / "AVSS") == fixtures.NAMES[1:]
    # Without AVSS, S4 has its categories, and MS3 has none.
    fixtures.write_s4(tmp_path / "a/Single-source", S4)
    fixtures.write_ms3(tmp_path / "b/Multi-sources", MS3)
    assert class_names(tmp_path / "a/Single-source") == ("cat_meowing", "dog_barking")
    assert read_set(tmp_path / "a/Single-source", "test")[0].sounding == {"dog_barking"}
    assert class_names(tmp_path / "b/Multi-sources") == ()
    assert read_set(tmp_path / "b/Multi-sources", "test")[0].sounding is None


def test_stray_tokens_of_a_obj(tmp_path) -> None:
    rows = [("v", "v_0_5000", 0, 0, "class-03_h orse_off-the-screen_background_", "test", "v1m")]
    fixtures.write_avss(tmp_path, rows)
    assert read_set(tmp_path, "test")[0].sounding == {"class-03", "horse"}


@pytest.mark.parametrize("first", [0, 1])
def test_label_ids_start_at_0_or_1(tmp_path, first) -> None:
    fixtures.write_avss(tmp_path, AVSS[:1], first=first)
    names = read_labels(tmp_path / "label2idx.json")
    assert names == fixtures.NAMES and len(names) == 71


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: None, "is missing"),
        (lambda ids: ids | {"woman": 5}, "repeated or left out"),
        (lambda ids: ids | {"woman": 99}, "repeated or left out"),
        (lambda ids: ids | {"man": 72}, "at most 71 names"),
        (lambda ids: {name: i + 1 for name, i in ids.items()}, "lowest id 0 or 1"),
        (lambda ids: {name: i for name, i in ids.items() if i > 1}, "background's"),
        (lambda ids: ids | {"woman": "71"}, "one object of names and ids"),
        (lambda ids: list(ids), "one object of names and ids"),
        (lambda ids: {}, "at most 71 names"),
    ],
)
def test_inconsistent_labels(tmp_path, change, message) -> None:
    fixtures.write_avss(tmp_path, AVSS[:1])
    path = tmp_path / "label2idx.json"
    ids = change(json.loads(path.read_text()))
    path.unlink() if ids is None else path.write_text(json.dumps(ids))
    with pytest.raises(UserError, match=message):
        class_names(tmp_path)


def test_ms3(tiny) -> None:
    (record,) = read_set(tiny.ms3("val", 1), "val")
    assert record.sounding is None and record.onscreen is None and record.video_path is None
    clip = record.load()
    assert clip.masks.any((1, 2)).tolist() == [True, True, True, True, False] and clip.labelled.all()
    video = record.frame_paths[0].parents[3] / "raw_videos" / f"{record.name}.mp4"
    video.parent.mkdir()
    video.touch()
    assert read_set(tiny.root, "val")[0].video_path == video


def test_scenes_csv_gives_the_classes_on_screen(tiny) -> None:
    row = 'clip_000000,test,0,0,owl,hen owl,"animals/owl|owl|11110;animals/hen|hen|00000"'
    tiny.ms3("test", 2)
    tiny.table("scenes.csv", "video_id,split,seed,index,sounding,onscreen,stamps", [row])
    first, second = read_set(tiny.root, "test")
    assert (first.sounding, first.onscreen) == ({"owl"}, {"owl", "hen"}) and first.complete
    assert first.sounding_by_second == ({"owl"},) * 4 + (set(),)
    assert second.onscreen is None
    tiny.table("scenes.csv", "video_id,sounding", ["clip_000000,owl"])
    with pytest.raises(UserError, match=r"scenes\.csv lacks the column onscreen"):
        read_set(tiny.root, "test")


def test_masks_may_be_stored_as_1_bit_rgb_or_palette(tiny) -> None:
    root = tiny.s4("test", ["dog"])
    masks = sorted((root / "s4_data/gt_masks").rglob("*.png"))
    want = read_set(root, "test")[0].load().masks
    for path, mode in zip(masks, ["1", "RGB", "P"], strict=False):
        image = Image.open(path)
        image.load()
        image.convert(mode).save(path)
    np.testing.assert_array_equal(read_set(root, "test")[0].load().masks, want)


@pytest.mark.parametrize(  # faults that `icf data check` finds too: test_dataset_check.py
    ("spoil", "message"),
    [
        (lambda tiny: tiny.edit_table("ms3_meta_data.csv", lambda rows: rows[1].__setitem__(1, "val")), "no clip"),
        (lambda tiny: (tiny.root / "ms3_meta_data.csv").write_bytes(b"\xff\x00\xfe"), "cannot read"),
        (lambda tiny: (tiny.root / "ms3_meta_data.csv").unlink(), "holds 0 of"),
        (lambda tiny: tiny.table("metadata.csv", "uid", []), "holds 2 of"),
        (lambda tiny: tiny.root.rename(tiny.root.with_name("gone")), "no folder"),
    ],
)
def test_faulty_sets_give_a_one_line_error(tiny, spoil, message) -> None:
    tiny.ms3("test", 1)
    with pytest.raises(ValueError, match="split"):
        read_set(tiny.root, "testing")
    spoil(tiny)
    with pytest.raises(UserError, match=message) as caught:
        read_set(tiny.root, "test")[0].load()
    assert "\n" not in str(caught.value)
