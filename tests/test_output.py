"""Overlay drawing, contact sheet, overlay videos of unusual inputs, and the writer thread."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from clip_maker import click, make_clip, number_in, picture, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icf_avs.mask_rle import decode, encode
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.contact_sheet import Tile, caption, contact_sheet, tile_numbers
from icf_avs.output.overlay import CONTOUR, Overlay, inner_edge
from icf_avs.output.result_file import result_folder
from icf_avs.output.video_writer import WriterThread, write_video
from icf_avs.provenance import Source
from icf_avs.results import FrameMask

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(MASKS)
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


def test_contour_is_the_border_of_the_mask_and_opaque():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 8:25] = True
    edge = inner_edge(mask, 1)
    assert edge.sum() == 2 * 10 + 2 * 17 - 4
    assert inner_edge(np.ones((5, 5), bool), 2).sum() == 0  # the image border is not a contour
    rgb = np.zeros((20, 30, 3), np.uint8)
    Overlay(mask).draw_rgb(rgb)
    inside = rgb[mask & ~edge]
    assert (rgb[edge] == CONTOUR).all() and (inside == inside[0]).all() and 100 < inside[0][0] < 130


def test_separate_regions_are_drawn_by_the_formula():
    mask = np.zeros((300, 200), bool)
    mask[3:40, 20:60] = mask[250:299, 150:190] = mask[60:70, 0:5] = True
    y = np.random.default_rng(0).integers(0, 256, mask.shape).astype(np.uint8)
    tint = 16 + (0.299 * 255 + 0.587 * 64) * 219 / 255
    contour = 16 + (0.299 * 255 + 0.587 * 232 + 0.114 * 64) * 219 / 255
    expected = np.where(mask, y + (round(tint) - y.astype(int)) * 112 / 256, y)
    expected = np.where(inner_edge(mask, 1), round(contour), expected)
    Overlay(mask).draw_yuv420(y, np.zeros((150, 100), np.uint8), np.zeros((150, 100), np.uint8))
    assert np.abs(y - expected).max() <= 1 and (y[~mask] == expected[~mask]).all()


def overlaid(source, mask=None):
    """Path of an overlay video with the same mask in every frame (default: empty)."""
    info, path = probe(source), source.with_name("overlay.mp4")
    mask = np.zeros((info.height, info.width), bool) if mask is None else mask
    write_video(info, path, lambda time: min(int(time), 9), lambda number: mask, lambda number: None)
    return path


def test_frames_with_and_without_a_mask_are_encoded_alike(tmp_path):
    source, found, speck = make_clip(tmp_path / "a.mp4", sound=tone(2)), [], np.zeros((120, 160), bool)
    speck[:2, :2] = True
    for mask in (None, speck):
        with av.open(str(overlaid(source, mask))) as container:
            found.append([(f.pts, f.key_frame, f.to_ndarray()[20:120].astype(int)) for f in container.decode(video=0)])
    assert len(found[0]) == len(found[1]) == 50
    for (pts, key, bare), (other_pts, other_key, drawn) in zip(*found, strict=True):
        assert (pts, key) == (other_pts, other_key) and np.abs(bare - drawn).mean() < 1


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [("libx264", "yuv444p", (161, 121)), ("ffv1", "yuv420p", (161, 121)), ("ffv1", "yuv420p10le", (160, 120)),
     ("ffv1", "bgr0", (160, 120)), ("libx264rgb", "rgb24", (160, 120)), ("mjpeg", "yuvj420p", (160, 120)),
     ("ffv1", "gray", (160, 120))],
)  # fmt: skip
def test_any_pixel_format_and_size_keeps_its_colours(tmp_path, codec, pix_fmt, size):
    source = make_clip(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, size=size, seconds=0.4, sound=tone(0.4))
    path = overlaid(source)
    (_, old), (_, new) = next(read_frames(source, [0.2])), next(read_frames(path, [0.2]))
    assert new.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3) and number_in(new) == 5
    assert np.abs(new[: size[1], : size[0]].astype(int) - old).mean() < 6
    with av.open(str(path)) as container:
        assert container.streams.video[0].pix_fmt in ("yuv420p", "yuvj420p")
        assert container.streams.video[0].colorspace != 0  # RGB: players would show YUV in false colours


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_the_overlay_of_a_rotated_video_is_upright(tmp_path, rotation):
    source = make_clip(tmp_path / "a.mp4", rotation=rotation, seconds=0.4, sound=tone(0.4))
    expected = np.rot90(picture(5), rotation // 90)
    mask = np.zeros(expected.shape[:2], bool)
    mask[100:110, 30:60] = True
    _, image = next(read_frames(overlaid(source, mask), [0.2]))
    difference = np.abs(image.astype(int) - expected).sum(axis=-1)
    assert difference[~mask].mean() < 25 and difference[mask].mean() > 100


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


@pytest.mark.parametrize(("fps", "expected"), [(60, 30), (50, 30), (30, 30), (24, 24)])
def test_high_frame_rates_are_reduced_to_thirty(tmp_path, fps, expected):
    result = probe(overlaid(make_clip(tmp_path / "a.mkv", fps=fps, sound=tone(2))))
    assert result.frame_rate == pytest.approx(expected, abs=0.6) and result.duration == pytest.approx(2, abs=0.03)
    for moment, image in read_frames(result, [0.5, 1.0, 1.5]):
        assert abs(number_in(image) - moment * fps) <= 1


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 2), (6, 2)])
def test_mono_stays_mono_and_multichannel_becomes_stereo(tmp_path, channels, expected):
    source = make_clip(tmp_path / "clip.mkv", seconds=1, sound=click(1, at=0.5, channels=channels))
    made = probe(overlaid(source))
    assert (probe(source).audio_channels, made.audio_channels) == (channels, expected)
    assert abs(int(np.abs(AudioWindows(made, 48_000).read(0, 48_000)).argmax()) - 24_000) < 480


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("case", ["plain", "late sound", "late frames"])
def test_aac_audio_is_copied(tmp_path, name, case):
    """Packets are copied with their timestamps; audio before the first frame is left out."""
    times = [0.5 + number / 25 for number in range(50)] if case == "late frames" else None
    source = make_clip(tmp_path / name, times=times, sound=tone(2.5), sound_at=0.3 if case == "late sound" else 0.0)
    info, found = probe(source), []
    for path in (source, overlaid(source)):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
            found.append([(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets])
    own, made = found
    left_out = len(own) - len(made)
    assert info.audio_unbroken and [data for _, data in own[left_out:]] == [data for _, data in made]
    assert np.abs([at - info.start - put for (at, _), (put, _) in zip(own[left_out:], made, strict=True)]).max() < 0.001
    assert left_out == (23 if case == "late frames" else 0)  # packets of 1,024 samples; the last before 0.5 s is kept


def test_a_gap_in_the_audio_is_silence(tmp_path):
    source = make_clip(tmp_path / "a.mp4", sound=click(2, at=1.5) + 0.5 * click(2, at=0.1), hole=(0.4, 1.0))
    assert not probe(source).audio_unbroken
    heard = np.abs(AudioWindows(overlaid(source), 48_000).read(0, 96_000))
    assert abs(int(heard.argmax()) - 72_000) < 480 and heard[24_000:43_200].max() < 0.01


def test_a_full_disk_is_not_blamed_on_the_source(tmp_path):
    """A full disk is reported as such, although audio packets are being copied."""
    info = probe(make_clip(tmp_path / "a.mp4", seconds=1, sound=tone(1)))

    def full(number):
        raise av.error.OSError(28, "No space left on device")

    with pytest.raises(av.error.OSError, match="No space left"):
        write_video(info, tmp_path / "overlay.mp4", int, full, lambda number: None)


def blank(index):
    return FrameMask(index, float(index), index + 1.0, index + 0.5, 0.0, 0.0, (), {})


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("video-writer")]


def test_the_writer_waits_for_masks_and_keeps_their_order():
    drawn, told = [], []

    def write(frame_of, shown):
        for index in range(3):
            drawn.append(frame_of(index).index)
            shown(index)

    with WriterThread(write) as writer:
        time.sleep(0.05)
        assert drawn == []
        writer.add(blank(0))
        while writer.drawn < 1:
            time.sleep(0.005)
        assert drawn == [0] and threads()
        writer.add(blank(1))
        writer.add(blank(2))
        writer.finish(lambda: told.append(writer.drawn))
    assert drawn == [0, 1, 2] and writer.drawn == 3 and len(writer.frames) == 3 and not threads()


def test_an_interruption_ends_the_thread():
    with pytest.raises(KeyboardInterrupt), WriterThread(lambda of, shown: [shown(of(i).index) for i in range(9)]) as it:
        it.add(blank(0))
        raise KeyboardInterrupt
    assert not threads() and it.drawn <= 1


def test_errors_of_the_thread_are_raised_in_the_caller():
    def write(frame_of, shown):
        frame_of(0)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), WriterThread(write) as writer:
        for index in range(1000):
            writer.add(blank(index))
            time.sleep(0.005)
    assert len(writer.frames) < 1000 and not threads()
    with pytest.raises(OSError, match="No space"), WriterThread(write) as writer:
        writer.add(blank(0))
        writer.finish(lambda: None)


def test_sheet_shows_at_most_twelve_evenly_spaced(tmp_path):
    assert tile_numbers(1) == {0} and tile_numbers(12) == set(range(12))
    chosen = sorted(tile_numbers(100))
    assert len(chosen) == 12 and (chosen[0], chosen[-1]) == (0, 99) and set(np.diff(chosen)) == {9}
    tile = Tile(np.full((90, 160, 3), 200, np.uint8), caption(65.25, (("dog", 0.8), ("w" * 99, 0.4)), 160))
    assert tile.caption == "1:05.25  dog 80%"
    sheet = np.asarray(contact_sheet([tile] * 5))
    assert (sheet == 200).all(axis=-1).sum() == 5 * 90 * 160
    assert (sheet[96:116] > 220).any()  # the caption


def test_names_of_result_folders(tmp_path):
    assert result_folder(tmp_path, Source(Path("a/dog.mp4"))) == tmp_path / "dog"
    assert result_folder(tmp_path, Source(Path("b/DOG.avi")), {tmp_path / "dog"}) == tmp_path / "DOG_2"
    (tmp_path / "cat").mkdir()
    assert result_folder(tmp_path, Source(Path("cat.mp4"))) == tmp_path / "cat_2"
    assert result_folder(tmp_path, Source(Path("...mp4"))).name == ".._2"
