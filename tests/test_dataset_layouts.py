"""Reader of the S4, MS3 and AVSS layouts: what a clip has beside them, and what is wrong. test_public_layouts.py
compares what it reads.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError


def test_ms3(tiny):
    (record,) = read_set(tiny.ms3("val", 1), "val")
    assert record.sounding is None and record.onscreen is None and record.video_path is None
    clip = record.load()
    assert clip.masks.any((1, 2)).tolist() == [True, True, True, True, False] and clip.labelled.all()
    video = record.frame_paths[0].parents[3] / "raw_videos" / f"{record.name}.mp4"
    video.parent.mkdir()
    video.touch()
    assert read_set(tiny.root, "val")[0].video_path == video


def test_scenes_tell_what_is_in_the_picture(tiny):
    row = 'clip_000000,test,0,0,owl,hen owl,"animals/owl|owl|11110;animals/hen|hen|00000"'
    tiny.ms3("test", 2)
    tiny.table("scenes.csv", "video_id,split,seed,index,sounding,onscreen,stamps", [row])
    first, second = read_set(tiny.root, "test")
    assert (first.sounding, first.onscreen) == ({"owl"}, {"owl", "hen"})
    assert second.onscreen is None
    tiny.table("scenes.csv", "video_id,sounding", ["clip_000000,owl"])
    with pytest.raises(UserError, match=r"scenes\.csv lacks the column onscreen"):
        read_set(tiny.root, "test")


def test_masks_may_be_stored_as_bits_or_as_grey_colour(tiny):
    root = tiny.s4("test", ["dog"])
    masks = sorted((root / "s4_data/gt_masks").rglob("*.png"))
    want = read_set(root, "test")[0].load().masks
    for path, mode in zip(masks, ["1", "RGB", "P"], strict=False):
        image = Image.open(path)
        image.load()
        image.convert(mode).save(path)
    np.testing.assert_array_equal(read_set(root, "test")[0].load().masks, want)


@pytest.mark.parametrize(  # what `icf data check` finds as well is in test_dataset_check.py
    ("spoil", "message"),
    [
        (lambda tiny: tiny.edit_table("ms3_meta_data.csv", lambda rows: rows[1].__setitem__(1, "val")), "no clip"),
        (lambda tiny: (tiny.root / "ms3_meta_data.csv").write_bytes(b"\xff\x00\xfe"), "cannot read"),
        (lambda tiny: (tiny.root / "ms3_meta_data.csv").unlink(), "holds 0 of"),
        (lambda tiny: tiny.table("metadata.csv", "uid", []), "holds 2 of"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tiny, spoil, message):
    tiny.ms3("test", 1)
    spoil(tiny)
    with pytest.raises(UserError, match=message) as caught:
        read_set(tiny.root, "test")[0].load()
    assert "\n" not in str(caught.value)


def test_other_mistakes(tiny, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        read_set(tmp_path / "nowhere", "test")
    with pytest.raises(ValueError, match="split"):
        read_set(tmp_path, "testing")
    tiny.avss("test", ["v1m"])
    tiny.mask(tiny.root / "v1m/clip_000000_0_5000/labels_semantic/0.png", 0, 71)
    with pytest.raises(UserError, match=r"class ids 0\.\.70"):
        read_set(tiny.root, "test")[0].load()
    tiny.edit_table("metadata.csv", lambda rows: rows[1].__setitem__(-1, "v9"))
    with pytest.raises(UserError, match="v9"):
        read_set(tiny.root, "test")
