"""Frames of any pixel format, matrix, range and depth have the right colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from clip_maker import make_clip, number_in
from colour_patches import COLOURS, patches, seen, write_patches

from icf_avs.media.frame_filters import Crop
from icf_avs.media.video_reader import probe, read_frames, video_frames
from icf_avs.output.video_writer import write_video
from icf_avs.serve.audio_override import silence

pytestmark = pytest.mark.full

SIGNALS = COLOURS / 255
DEEP = ["yuv420p9le", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv420p12le", "yuv444p14le", "yuv444p16le"]


def colours_of(path, time=0.0):
    return seen(next(read_frames(path, [time]))[1])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", *DEEP])
@pytest.mark.parametrize("matrix", [1, 5, 6])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_of_every_depth_matrix_and_range(tmp_path, pix_fmt, matrix, full):
    frame = patches(SIGNALS, pix_fmt, matrix, full)
    path = write_patches(tmp_path / "a.mkv", [frame], colorspace=matrix, color_range=2 if full else 1)
    assert np.abs(colours_of(path) - COLOURS).max() <= 2


@pytest.mark.parametrize("pix_fmt", ["gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le", "rgb48le", "gbrap16le"])
def test_deep_rgb(tmp_path, pix_fmt):
    opaque = np.concatenate([SIGNALS, np.ones((len(SIGNALS), 1))], axis=1)
    path = write_patches(tmp_path / "a.nut", [patches(opaque, pix_fmt, 0, full=True)])
    assert np.abs(colours_of(path) - COLOURS).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray12le", "gray16le"])
def test_grey(tmp_path, pix_fmt):
    path = write_patches(tmp_path / "a.nut", [patches(SIGNALS, pix_fmt)])
    assert np.abs(colours_of(path) - np.round(COLOURS @ [[0.299], [0.587], [0.114]])).max() <= 1


def test_rgb_in_the_limited_range(tmp_path):
    frame = patches(SIGNALS, "gbrp", 0, full=False)
    lossless = {"x265-params": "lossless=1:log-level=none"}
    path = write_patches(tmp_path / "a.mkv", [frame], "libx265", options=lossless, colorspace=0, color_range=1)
    assert np.abs(colours_of(path) - COLOURS).max() <= 2


@pytest.mark.parametrize(("codec", "pix_fmt"), [("png", "rgba"), ("ffv1", "gbrap10le"), ("prores_ks", "yuva444p10le")])
def test_alpha_is_composed_on_black(tmp_path, codec, pix_fmt):
    alpha = np.linspace(0, 1, len(SIGNALS))[::-1, None]
    frame = patches(np.concatenate([SIGNALS, alpha], axis=1), pix_fmt, 1, full=pix_fmt != "yuva444p10le")
    tags = {"colorspace": 1} if codec == "prores_ks" else {}
    path = write_patches(tmp_path / "a.mov" if codec == "prores_ks" else tmp_path / "a.nut", [frame], codec, **tags)
    assert np.abs(colours_of(path) - COLOURS * alpha).max() <= 3


@pytest.mark.parametrize("matrix", [3, 8, 10, 13, 14])
def test_videos_with_unsupported_matrices_are_read(tmp_path, matrix):
    frame = patches(SIGNALS, "yuv444p", matrix)
    path = write_patches(tmp_path / "a.mkv", [frame], "libx264", options={"qp": "0"}, colorspace=matrix)
    assert np.abs(colours_of(path)[:3] - COLOURS[:3]).max() <= 2  # greys are the same in all of them


def joined(path, *parts):
    """Concatenate H.264 streams: size, format and colours change where the next one begins."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_matrix_range_depth_and_size_may_change_within_a_stream(tmp_path):
    kinds = [("yuv420p", 5, False, 32), ("yuv420p", 1, False, 32), ("yuv420p", 1, True, 64)]
    kinds.append(("yuv422p10le", 1, False, 48))
    parts = []
    for number, (pix_fmt, matrix, full, side) in enumerate(kinds):
        frames = [patches(SIGNALS, pix_fmt, matrix, full, side) for _ in range(5)]
        tags = {"colorspace": matrix, "color_range": 2 if full else 1}
        parts.append(write_patches(tmp_path / f"{number}.h264", frames, "libx264", options={"qp": "0"}, **tags))
    info = probe(joined(tmp_path / "a.h264", *parts))
    times = (0.1, 0.3, 0.5, 0.7)
    for time, image in read_frames(info, times):
        assert np.abs(seen(image) - COLOURS).max() <= 2, time
    nothing = np.zeros((info.height, info.width), bool)
    write_video(info, tmp_path / "film.mp4", lambda _: 0, lambda _: nothing, lambda _: None, sound=silence(info))
    for time, image in read_frames(tmp_path / "film.mp4", times):
        assert np.abs(seen(image) - COLOURS).max() <= 8, time


@pytest.mark.parametrize("cut", [Crop(), Crop(4, 2, 6, 8)])
def test_size_may_change_within_an_interlaced_or_cropped_stream(tmp_path, cut):
    """Filters are made for one size."""
    parts = []
    for number, size in enumerate([(160, 120), (320, 240), (160, 120)]):
        fields = {"x264-params": "tff=1" if number < 2 else "", "qp": "0"}
        parts.append(make_clip(tmp_path / f"{number}.h264", seconds=0.2, size=size, options=fields))
    info = probe(joined(tmp_path / "a.h264", *parts))
    info = replace(info, crop=cut, width=160 - cut.left - cut.right, height=120 - cut.top - cut.bottom)
    found = [(time, picture.frame.width, picture.frame.height) for time, picture in video_frames(info)]
    assert [time for time, *_ in found] == pytest.approx([n / 25 for n in range(15)], abs=0.01)
    sizes = [(width + cut.left + cut.right, height + cut.top + cut.bottom) for _, width, height in found]
    assert sizes == [(160, 120)] * 5 + [(320, 240)] * 5 + [(160, 120)] * 5
    for _, image in read_frames(info, [0.1, 0.5]):
        assert image.shape == (info.height, info.width, 3)
        assert number_in(np.pad(image, ((cut.top, 0), (cut.left, 0), (0, 0)), mode="edge")) == 2
