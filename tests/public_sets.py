"""Clips of the small test sets in the three public layouts."""

from __future__ import annotations

from icf_avs.types import ClipSpec

S4 = [
    ("-dog_______", 30, "dog_barking", "train"),
    ("_cat_______", 0, "cat_meowing", "train"),
    ("cat-val____", 7, "cat_meowing", "val"),
    ("dog-test___", 30, "dog_barking", "test"),
]
MS3 = [("-video_____", "train"), ("video-val__", "val"), ("video-test_", "test")]
AVSS = [  # vid, uid, s_min, s_sec, a_obj (with a stray space, as in the public table), split, label
    ("-dog_______", "-dog________30000_35000", 0, 30, "class-07", "train", "v1s"),
    ("_cat_______", "_cat________0_5000", 0, 0, "class-03_off-the-screen", "train", "v1s"),
    ("cat-val____", "cat-val_____7000_12000", 0, 7, "class-03", "val", "v1s"),
    ("dog-test___", "dog-test____30000_35000", 0, 30, "class-07", "test", "v1s"),
    ("-video_____", "-video______1000_6000", 0, 1, "class-03_class- 07_", "train", "v1m"),
    ("video-test_", "video-test__0_5000", 0, 0, "woman_background", "test", "v1m"),
    ("long_______", "long________0_10000", 0, 0, "woman_class-03", "train", "v2"),
    ("long-test__", "long-test___0_10000", 0, 0, "woman", "test", "v2"),
]
SPEC = ClipSpec(phase=15 / 16)
