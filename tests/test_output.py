"""Drawing of masks and contact sheet; class ids, run lengths, and intervals of subtitles; overlay videos of
unusual inputs, their thread, and frames for two consumers.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import av
import numpy as np
import pytest
import torch
from clip_maker import click, make_clip, number_in, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icf_avs.mask_rle import check_run_lengths, decode, encode
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.frame_tee import FrameTee
from icf_avs.media.video_reader import probe, read_frames, video_frames
from icf_avs.output.class_labels import class_labels
from icf_avs.output.class_overlay import palette
from icf_avs.output.contact_sheet import Tile, caption, contact_sheet, tile_numbers
from icf_avs.output.overlay import Overlay, inner_edge
from icf_avs.output.subtitles import subtitles
from icf_avs.output.video_writer import WriterThread, write_video
from icf_avs.results import FrameMask


def overlaid(source):
    """Path of an overlay video without a mask."""
    info, path = probe(source), source.with_name("overlay.mp4")
    mask = np.zeros((info.height, info.width), bool)
    write_video(info, path, lambda time: min(int(time), 9), lambda number: mask, lambda number: None)
    return path


def test_irregular_times_and_late_sound_are_kept(tmp_path):
    shown = [0.0, 0.1, 0.15, 0.9, 1.0, 2.5]
    source = make_clip(tmp_path / "a.mkv", times=shown, sound=click(2, at=1.0), sound_at=0.7)
    path = overlaid(source)
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    # the frame of 1.0 s outlasts its mask and is repeated with the next one
    np.testing.assert_allclose(times, [0.0, 0.1, 0.15, 0.9, 1.0, 2.0, 2.5], atol=0.002)
    assert probe(path).duration == pytest.approx(probe(source).duration, abs=0.02)
    wave = AudioWindows(path).read(0, 48_000)
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(1.7, abs=0.03)


@pytest.mark.parametrize(("fps", "expected"), [(50, 30), (24, 24)])
def test_high_frame_rates_are_reduced_to_thirty(tmp_path, fps, expected):
    result = probe(overlaid(make_clip(tmp_path / "a.mkv", fps=fps, sound=tone(2))))
    assert result.frame_rate == pytest.approx(expected, abs=0.6) and result.duration == pytest.approx(2, abs=0.03)
    for moment, image in read_frames(result, [0.5, 1.0, 1.5]):
        assert abs(number_in(image) - moment * fps) <= 1


@pytest.mark.parametrize(
    ("name", "timing", "most"),
    [("a.mp4", {"sound_at": 0.3}, 0), ("a.mkv", {"times": [0.5 + number / 25 for number in range(50)]}, 23)],
)
def test_aac_audio_is_copied(tmp_path, name, timing, most):
    """Packets are copied with their timestamps; audio before the first frame is left out."""
    source = make_clip(tmp_path / name, sound=tone(2.5), **timing)
    info, found = probe(source), []
    for path in (source, overlaid(source)):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
            found.append([(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets])
    own, made = found
    left_out = len(own) - len(made)
    assert info.audio_unbroken and [data for _, data in own[left_out:]] == [data for _, data in made]
    assert np.abs([at - info.start - put for (at, _), (put, _) in zip(own[left_out:], made, strict=True)]).max() < 0.001
    assert left_out == most  # packets of 1,024 samples; the last before 0.5 s is kept


def test_a_gap_in_the_audio_is_silence(tmp_path):
    source = make_clip(tmp_path / "a.mp4", sound=click(2, at=1.5) + 0.5 * click(2, at=0.1), hole=(0.4, 1.0))
    assert not probe(source).audio_unbroken
    heard = np.abs(AudioWindows(overlaid(source), 48_000).read(0, 96_000))
    assert abs(int(heard.argmax()) - 72_000) < 480 and heard[24_000:43_200].max() < 0.01


@pytest.mark.parametrize("masks", [1, 1000])
def test_errors_of_the_writer_thread_are_raised_in_the_caller(masks):
    def write(frame_of, shown):
        frame_of(0)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), WriterThread(write) as writer:
        for index in range(masks):
            writer.add(FrameMask(index, index, index + 1, index, 0, 0, (), {}))
            time.sleep(0.005)
        writer.finish(lambda: None)
    assert len(writer.frames) < 1000
    assert not any(thread.name.startswith("video-writer") for thread in threading.enumerate())


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    """Video of fifty frames."""
    return probe(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=2, sound=tone(2)))


def read(shared, may, count=None):
    """Start to read `count` frames of the second consumer, or all, once `may` is set."""

    def later():
        may.wait()
        with shared.behind() as pictures:
            return [moment for moment, _ in islice(pictures, count)]

    return ThreadPoolExecutor().submit(later)


@pytest.mark.parametrize("seconds", [1.0, 1e6], ids=["shared", "too large"])
@pytest.mark.parametrize("ahead", [0, 1, 20, 1000])
def test_both_consumers_get_every_frame_wherever_the_first_stops(info, seconds, ahead):
    every, may = [moment for moment, _ in video_frames(info)], threading.Event()
    with FrameTee(info, seconds=seconds) as shared:
        behind = read(shared, may)
        with shared.ahead() as pictures:
            seen = [moment for moment, _ in islice(pictures, ahead)]
        may.set()
        assert behind.result(10) == every
    assert len(every) == 50 and seen == every[:ahead]


@pytest.mark.parametrize("seconds", [0.4, 1e6], ids=["shared", "too large"])
@pytest.mark.parametrize(("failure", "count"), [(KeyboardInterrupt, 50), (None, 3)])
def test_a_consumer_that_has_left_is_not_awaited(info, seconds, failure, count):
    may = threading.Event()
    may.set()
    with FrameTee(info, seconds=seconds) as shared:
        with suppress(KeyboardInterrupt), shared.ahead() as pictures:
            next(pictures)
            behind = read(shared, may, count)
            if failure:
                raise failure
            assert len(list(pictures)) == 49 and len(behind.result(10)) == 3
            shared.wait(9.0)
        assert len(behind.result(10)) == count


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


def test_colours_are_those_of_avss_and_pascal_voc():
    colours = palette().tolist()
    assert (colours[15], colours[20], colours[255]) == ([192, 128, 128], [0, 64, 128], [224, 224, 192])
    for index, colour in enumerate(colours):
        bits = f"{index:09b}"[::-1]  # lowest first, assigned to red, green, blue in turn
        assert colour == [int(bits[channel::3].ljust(8, "0"), 2) for channel in range(3)], index
    assert len(colours) == 256 and palette(71).tolist() == colours[:71]


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
