"""Drawing, run lengths, the contact sheet and the film of unusual videos."""

from __future__ import annotations

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
from icf_avs.output.video_writer import write_video
from icf_avs.provenance import Source

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(MASKS)
@settings(deadline=None)
def test_run_lengths_are_exact(mask):
    np.testing.assert_array_equal(decode(encode(mask)), mask)


@given(MASKS)
@settings(deadline=None)
def test_drawing_touches_the_mask_and_nothing_else(mask):
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
    assert inner_edge(np.ones((5, 5), bool), 2).sum() == 0  # the frame of the picture is no contour
    rgb = np.zeros((20, 30, 3), np.uint8)
    Overlay(mask).draw_rgb(rgb)
    assert (rgb[edge] == CONTOUR).all()
    inside = rgb[mask & ~edge]
    assert (inside == inside[0]).all() and 100 < inside[0][0] < 130


def test_what_lies_apart_is_drawn_by_the_formula_and_what_is_between_is_left():
    mask = np.zeros((300, 200), bool)
    mask[3:40, 20:60] = mask[250:299, 150:190] = mask[60:70, 0:5] = True
    y = np.random.default_rng(0).integers(0, 256, mask.shape).astype(np.uint8)
    edge = inner_edge(mask, 1)
    tint, contour = (
        16 + (0.299 * 255 + 0.587 * 64) * 219 / 255,
        16 + (0.299 * 255 + 0.587 * 232 + 0.114 * 64) * 219 / 255,
    )
    expected = np.where(mask, y + (round(tint) - y.astype(int)) * 112 / 256, y)
    expected = np.where(edge, round(contour), expected)
    Overlay(mask).draw_yuv420(y, np.zeros((150, 100), np.uint8), np.zeros((150, 100), np.uint8))
    assert np.abs(y - expected).max() <= 1 and (y[~mask] == expected[~mask]).all()


def test_a_picture_with_nothing_on_it_is_filmed_as_one_with_something(tmp_path):
    source = make_clip(tmp_path / "a.mp4", seconds=2, sound=tone(2))
    speck = np.zeros((120, 160), bool)
    speck[:2, :2] = True
    film(source, tmp_path / "bare.mp4", nothing((160, 120)))
    film(source, tmp_path / "speck.mp4", lambda number: speck)
    found = []
    for name in ("bare", "speck"):
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            found.append([(f.pts, f.key_frame, f.to_ndarray()[20:120].astype(int)) for f in container.decode(video=0)])
    assert len(found[0]) == len(found[1]) == 50
    for (pts, key, bare), (other_pts, other_key, drawn) in zip(*found, strict=True):
        assert (pts, key) == (other_pts, other_key)
        assert np.abs(bare - drawn).mean() < 1


def film(source, path, mask_of):
    info = probe(source)
    write_video(info, path, lambda time: min(int(time), 9), mask_of, lambda number: None)
    return info


def nothing(size):
    return lambda number: np.zeros(size[::-1], bool)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("libx264", "yuv444p", (161, 121)),
        ("ffv1", "yuv420p", (161, 121)),
        ("ffv1", "yuv420p10le", (160, 120)),
        ("ffv1", "bgr0", (160, 120)),
        ("libx264rgb", "rgb24", (160, 120)),
        ("mjpeg", "yuvj420p", (160, 120)),
        ("ffv1", "gray", (160, 120)),
    ],
)
def test_film_of_any_pixel_format_and_size_keeps_its_colours(tmp_path, codec, pix_fmt, size):
    source = make_clip(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, size=size, seconds=0.4, sound=tone(0.4))
    film(source, tmp_path / "film.mp4", nothing(size))
    (_, old), (_, new) = next(read_frames(source, [0.2])), next(read_frames(tmp_path / "film.mp4", [0.2]))
    assert new.shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert number_in(new) == 5
    assert np.abs(new[: size[1], : size[0]].astype(int) - old).mean() < 6
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].pix_fmt in ("yuv420p", "yuvj420p")
        assert container.streams.video[0].colorspace != 0  # RGB: players would show YUV in false colours


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_film_of_a_turned_video_stands_upright(tmp_path, rotation):
    source = make_clip(tmp_path / "a.mp4", rotation=rotation, seconds=0.4, sound=tone(0.4))
    expected = np.rot90(picture(5), rotation // 90)
    mask = np.zeros(expected.shape[:2], bool)
    mask[100:110, 30:60] = True
    film(source, tmp_path / "film.mp4", lambda number: mask)
    _, image = next(read_frames(tmp_path / "film.mp4", [0.2]))
    difference = np.abs(image.astype(int) - expected).sum(axis=-1)
    assert difference[~mask].mean() < 25
    assert difference[mask].mean() > 100


def test_film_keeps_irregular_times_and_late_sound(tmp_path):
    shown = [0.0, 0.1, 0.15, 0.9, 1.0, 2.5]
    source = make_clip(tmp_path / "a.mkv", times=shown, sound=click(2, at=1.0), sound_at=0.7)
    info = film(source, tmp_path / "film.mp4", nothing((160, 120)))
    with av.open(str(tmp_path / "film.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    # the picture of 1.0 is held beyond its mask, and shown again under the next one
    np.testing.assert_allclose(times, [0.0, 0.1, 0.15, 0.9, 1.0, 2.0, 2.5], atol=0.002)
    assert probe(tmp_path / "film.mp4").duration == pytest.approx(info.duration, abs=0.02)
    wave = AudioWindows(tmp_path / "film.mp4").read(0, 48_000)
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(1.7, abs=0.03)


@pytest.mark.parametrize(("fps", "expected"), [(60, 30), (50, 30), (30, 30), (24, 24)])
def test_fast_video_is_thinned_to_thirty(tmp_path, fps, expected):
    source = make_clip(tmp_path / "a.mkv", fps=fps, seconds=2, sound=tone(2))
    film(source, tmp_path / "film.mp4", nothing((160, 120)))
    result = probe(tmp_path / "film.mp4")
    assert result.frame_rate == pytest.approx(expected, abs=0.6)
    assert result.duration == pytest.approx(2, abs=0.03)
    for time, image in read_frames(result, [0.5, 1.0, 1.5]):
        assert abs(number_in(image) - time * fps) <= 1


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 2), (6, 2)])
def test_film_of_mono_is_mono_and_of_more_stereo(tmp_path, channels, expected):
    source = make_clip(tmp_path / "clip.mkv", seconds=1, sound=click(1, at=0.5, channels=channels))
    film(source, tmp_path / "film.mp4", nothing((160, 120)))
    made = probe(tmp_path / "film.mp4")
    assert (probe(source).audio_channels, made.audio_channels) == (channels, expected)
    heard = AudioWindows(made, 48_000).read(0, 48_000)
    assert abs(int(np.abs(heard).argmax()) - 24_000) < 480


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("case", ["plain", "late sound", "late pictures"])
def test_the_sound_of_a_film_is_the_videos_own_aac(tmp_path, name, case):
    """Packet for packet, at the second it belongs to; what is heard before the first picture is left out."""
    times = [0.5 + number / 25 for number in range(50)] if case == "late pictures" else None
    source = make_clip(tmp_path / name, times=times, sound=tone(2.5), sound_at=0.3 if case == "late sound" else 0.0)
    info = film(source, tmp_path / "film.mp4", nothing((160, 120)))
    own, made = packets_of_sound(source), packets_of_sound(tmp_path / "film.mp4")
    left_out = len(own) - len(made)
    assert info.audio_unbroken and [data for _, data in own[left_out:]] == [data for _, data in made]
    assert np.abs([at - info.start - put for (at, _), (put, _) in zip(own[left_out:], made, strict=True)]).max() < 0.001
    assert left_out == (23 if case == "late pictures" else 0)  # of 1,024 samples; the last before 0.5 s is kept


def test_sound_that_an_edit_list_cuts_off_is_not_in_the_film(tmp_path):
    source = make_clip(tmp_path / "a.mp4", seconds=2, sound=tone(2))
    data = bytearray(source.read_bytes())
    entry = data.rindex(b"elst") + 12  # the only one of the sound: its length in milliseconds comes first
    assert int.from_bytes(data[entry : entry + 4], "big") == 2_000
    data[entry : entry + 4] = (1_000).to_bytes(4, "big")
    source.write_bytes(data)
    film(source, tmp_path / "film.mp4", nothing((160, 120)))
    heard = [AudioWindows(path, 48_000).read(0, 96_000) for path in (source, tmp_path / "film.mp4")]
    np.testing.assert_array_equal(*heard)
    assert np.abs(heard[1][47_000:48_000]).max() > 0.2 and not heard[1][50_000:].any()


def test_a_film_that_cannot_be_written_is_not_the_videos_fault(tmp_path):
    """Whose sound is copied meanwhile: a full disk stays a full disk."""
    source = make_clip(tmp_path / "a.mp4", seconds=1, sound=tone(1))

    def full(number):
        raise av.error.OSError(28, "No space left on device")

    with pytest.raises(av.error.OSError, match="No space left"):
        film(source, tmp_path / "film.mp4", full)


def packets_of_sound(path):
    """(seconds, bytes) of each."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in found]


def test_a_hole_in_the_sound_is_silence_in_the_film(tmp_path):
    source = make_clip(tmp_path / "a.mp4", sound=click(2, at=1.5) + 0.5 * click(2, at=0.1), hole=(0.4, 1.0))
    assert not probe(source).audio_unbroken
    film(source, tmp_path / "film.mp4", nothing((160, 120)))
    heard = np.abs(AudioWindows(tmp_path / "film.mp4", 48_000).read(0, 96_000))
    assert abs(int(heard.argmax()) - 72_000) < 480 and heard[24_000:43_200].max() < 0.01


def test_sheet_shows_at_most_twelve_evenly_spaced(tmp_path):
    assert tile_numbers(1) == {0}
    assert tile_numbers(12) == set(range(12))
    chosen = sorted(tile_numbers(100))
    assert len(chosen) == 12 and (chosen[0], chosen[-1]) == (0, 99)
    assert set(np.diff(chosen)) == {9}
    tile = Tile(np.full((90, 160, 3), 200, np.uint8), caption(65.25, (("dog", 0.8), ("w" * 99, 0.4)), 160))
    assert tile.caption == "1:05.25  dog 80%"
    sheet = np.asarray(contact_sheet([tile] * 5))
    assert (sheet == 200).all(axis=-1).sum() == 5 * 90 * 160
    assert (sheet[96:116] > 220).any()  # the line below


def test_folder_names_that_mean_something_else(tmp_path):
    assert result_folder(tmp_path, Source(Path("a/dog.mp4"))) == tmp_path / "dog"
    assert result_folder(tmp_path, Source(Path("b/DOG.avi")), {tmp_path / "dog"}) == tmp_path / "DOG_2"
    (tmp_path / "cat").mkdir()
    assert result_folder(tmp_path, Source(Path("cat.mp4"))) == tmp_path / "cat_2"
    assert result_folder(tmp_path, Source(Path("...mp4"))).name == ".._2"
