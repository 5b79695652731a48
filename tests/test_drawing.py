"""Drawing of masks, classes, legend and contact sheet; class ids, run lengths, and intervals of subtitles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from icf_avs.mask_rle import check_run_lengths, decode, encode
from icf_avs.output.class_labels import class_labels
from icf_avs.output.class_overlay import class_colours, draw_legend, palette
from icf_avs.output.contact_sheet import Tile, caption, contact_sheet, tile_numbers
from icf_avs.output.overlay import Overlay, inner_edge
from icf_avs.output.subtitles import subtitles
from icf_avs.results import FrameMask


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@settings(deadline=None)
def test_drawing_changes_exactly_the_mask(mask):
    np.testing.assert_array_equal(decode(encode(mask)), mask)
    rgb = np.full((*mask.shape, 3), 90, np.uint8)
    Overlay(mask).draw_rgb(rgb)
    np.testing.assert_array_equal((rgb != 90).any(axis=-1), mask)
    half = [-(-side // 2) for side in mask.shape]
    y, u, v = np.full(mask.shape, 90, np.uint8), np.full(half, 128, np.uint8), np.full(half, 128, np.uint8)
    Overlay(mask).draw_yuv420(y, u, v)
    np.testing.assert_array_equal(y != 90, mask)
    padded = np.zeros((half[0] * 2, half[1] * 2), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    np.testing.assert_array_equal(v != 128, padded.reshape(half[0], 2, half[1], 2).any(axis=(1, 3)))


def test_separate_regions_are_drawn_by_the_formula():
    mask = np.zeros((300, 200), bool)
    mask[3:40, 20:60] = mask[250:299, 150:190] = mask[60:70, 0:5] = True
    edge = inner_edge(mask, 1)
    assert edge.sum() == 2 * (37 + 40 - 2) + 2 * (49 + 40 - 2) + 2 * 5 + 10 - 2  # the image border is no contour
    y = np.random.default_rng(0).integers(0, 256, mask.shape).astype(np.uint8)
    tint = 16 + (0.299 * 255 + 0.587 * 64) * 219 / 255
    contour = 16 + (0.299 * 255 + 0.587 * 232 + 0.114 * 64) * 219 / 255
    expected = np.where(mask, y + (round(tint) - y.astype(int)) * 112 / 256, y)
    expected = np.where(edge, round(contour), expected)
    Overlay(mask).draw_yuv420(y, np.zeros((150, 100), np.uint8), np.zeros((150, 100), np.uint8))
    assert np.abs(y - expected).max() <= 1 and (y[~mask] == expected[~mask]).all()


def test_each_class_is_drawn_independently():
    rng = np.random.default_rng(0)
    ids = np.asarray(Image.fromarray(rng.integers(0, 4, (5, 7), np.uint8)).resize((70, 50), Image.Resampling.NEAREST))
    together, apart = np.full((2, 50, 70, 3), 90, np.uint8)
    Overlay(ids, class_colours(4)).draw_rgb(together)
    for index in (1, 2, 3):
        Overlay(ids * np.uint8(ids == index), class_colours(4)).draw_rgb(apart)
        assert (together[inner_edge(ids, 1) & (ids == index)] == 128 + palette()[index] // 2).all()
    np.testing.assert_array_equal(together, apart)
    assert (together[ids == 0] == 90).all()


def test_the_legend_fits():
    names = ("background", *(f"a rather long name {i}" for i in range(70)))
    every = range(1, 71), names
    for width, height in ((100, 40), (300, 1), (5, 5), (2000, 2000)):
        picture = draw_legend(*every, width, height, 12)
        assert picture.width <= width and picture.height <= height
    pixels = np.asarray(picture)
    assert all((pixels == palette(71)[index]).all(axis=-1).sum() > 50 for index in range(1, 71))
    few = np.asarray(draw_legend(*every, 400, 60, 12))
    assert 1 <= sum((few == palette(71)[index]).all(axis=-1).sum() > 50 for index in range(1, 71)) < 70


def test_colours_are_those_of_avss_and_pascal_voc():
    colours = palette().tolist()
    assert (colours[15], colours[20], colours[255]) == ([192, 128, 128], [0, 64, 128], [224, 224, 192])
    for index, colour in enumerate(colours):
        bits = f"{index:09b}"[::-1]  # lowest first, assigned to red, green, blue in turn
        assert colour == [int(bits[channel::3].ljust(8, "0"), 2) for channel in range(3)], index
    assert len(colours) == 256 and palette(71).tolist() == colours[:71]
    for n in (0, 257):
        with pytest.raises(ValueError, match="colours"):
            palette(n)


def test_sheet_shows_at_most_twelve_evenly_spaced():
    assert tile_numbers(1) == {0} and tile_numbers(12) == set(range(12))
    assert sorted(tile_numbers(100)) == [*range(0, 100, 9)]
    tile = Tile(np.full((90, 160, 3), 200, np.uint8), caption(65.25, (("dog", 0.8), ("w" * 99, 0.4)), 160))
    assert tile.caption == "1:05.25  dog 80%"
    sheet = np.asarray(contact_sheet([tile] * 5))
    assert (sheet == 200).all(axis=-1).sum() == 5 * 90 * 160
    assert (sheet[96:116] > 220).any()  # the caption


def stretched(maps: np.ndarray, axis: int, large: int) -> np.ndarray:
    """Linear interpolation, pixel centres aligned at (i + 1/2) h/H - 1/2, borders repeated."""
    small = maps.shape[axis]
    at = (np.arange(large) + 0.5) * small / large - 0.5
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(small), line), axis, maps)


@given(st.integers(0, 2**31), st.integers(1, 30), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.floats(0, 8))
@settings(deadline=None, max_examples=60)
def test_class_ids_are_the_argmax_of_upsampled_logits(seed, classes, small, background):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((classes + 1, *small)) + np.r_[background, rng.uniform(0, 8, classes)][:, None, None]
    size = tuple(rng.integers(1, 40, 2).tolist())
    values = stretched(stretched(logits.astype(np.float32), 1, size[0]), 2, size[1])
    mask = rng.random(size) > 0.5
    ids = class_labels(torch.from_numpy(logits).float(), size).numpy()
    inside = class_labels(torch.from_numpy(logits).float(), size, torch.from_numpy(mask)).numpy()
    assert ids.dtype == np.uint8 and ids.shape == size
    reached = np.take_along_axis(values, ids[None].astype(int), 0)[0]
    np.testing.assert_allclose(reached, values.max(0), atol=1e-4)
    np.testing.assert_array_equal(inside > 0, mask)  # never background inside the mask
    reached = np.take_along_axis(values, inside[None].astype(int), 0)[0]
    np.testing.assert_allclose(reached[mask], values[1:].max(0)[mask], atol=1e-4)


def test_more_than_255_classes_are_refused():
    with pytest.raises(ValueError, match="at most 255"):
        class_labels(torch.zeros(257, 2, 2), (2, 2))
    assert class_labels(torch.arange(256.0)[:, None, None], (1, 1)).item() == 255


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.data())
@settings(deadline=None, max_examples=300)
def test_run_lengths_that_pass_the_check_are_canonical(size, data):
    """Invalid run lengths make pycocotools write out of bounds, so files with them must be rejected."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    valid = encode(np.kron(rng.random((size[0] // 4 + 1, size[1])) < 0.5, np.ones((4, 1)))[: size[0]])
    check_run_lengths(valid, *size)
    text = valid["counts"]
    at, code = data.draw(st.integers(0, len(text) - 1)), chr(data.draw(st.integers(40, 120)))
    counts = text[:at] + data.draw(st.sampled_from([code, "", code + "0"])) + text[at + 1 :]
    changed = {"size": list(size), "counts": data.draw(st.sampled_from([counts, counts, counts, "", "é", "0" * 50]))}
    try:
        check_run_lengths(changed, *size)
    except ValueError:
        return
    np.testing.assert_array_equal(decode(encode(decode(changed))), decode(changed))
    assert decode(changed).shape == size


def heard(rows, fps=1.0):
    """Empty masks with heard words, from rows of {word: probability}."""
    empty = encode(np.zeros((2, 2), bool))
    return [FrameMask(i, i / fps, (i + 1) / fps, 0, 0, 0, tuple(row.items()), empty) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "fps", "expected"),
    [
        # hysteresis: appears at one probability, disappears at a lower one
        ([{"dog": p} for p in (0.4, 0.6, 0.35, 0.45, 0.25, 0.45, 0.5)], 1, [(1, 4, ("dog",)), (6, 7, ("dog",))]),
        # simultaneous words share one subtitle
        ([{"dog": 0.9}, {"dog": 0.9, "bell": 0.9}, {"bell": 0.9}, {}, {"bell": 0.9}], 1,
         [(0, 1, ("dog",)), (1, 2, ("dog", "bell")), (2, 3, ("bell",)), (4, 5, ("bell",))]),
        # short gaps are closed and short lines are lengthened
        ([{"dog": 0.9}, {}, {}, {"dog": 0.9}, *[{}] * 20, {"dog": 0.9}, *[{}] * 10, {"dog": 0.9}], 10,
         [(0, 0.5, ("dog",)), (2.4, 2.9, ("dog",)), (3.5, 3.6, ("dog",))]),
    ],
)  # fmt: skip
def test_subtitle_intervals(rows, fps, expected):
    found = subtitles(heard(rows, fps))
    assert [(round(start, 3), round(end, 3), words) for start, end, words in found] == expected
