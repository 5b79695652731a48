"""The colours of class ids against known ones and against the rule written out bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from icf_avs.output.class_overlay import indexed, palette


def test_known_colours_of_avss_and_pascal_voc():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        70: (32, 128, 128),
        255: (224, 224, 192),  # the void label of VOC
    }
    colours = palette()
    assert colours.shape == (256, 3) and colours.dtype == np.uint8
    assert {index: tuple(colours[index].tolist()) for index in known} == known


def test_every_colour_by_the_rule_in_words():
    for index, colour in enumerate(palette().tolist()):
        bits = f"{index:09b}"[::-1]  # the lowest first, dealt to red, green, blue in turn
        expected = [int(bits[channel::3].ljust(8, "0"), 2) for channel in range(3)]
        assert colour == expected, index


def test_colours_differ_and_a_shorter_palette_is_the_beginning():
    assert len({tuple(colour) for colour in palette().tolist()}) == 256
    np.testing.assert_array_equal(palette(71), palette()[:71])
    for n in (0, 257):
        with pytest.raises(ValueError, match="colours"):
            palette(n)


def test_an_indexed_picture_keeps_ids_and_shows_colours(tmp_path):
    ids = np.array([[0, 1, 2], [70, 255, 3]], np.uint8)
    indexed(ids).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
        np.testing.assert_array_equal(np.asarray(stored), ids)
        np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), palette()[ids])
