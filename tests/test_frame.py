"""Colours and geometry of frames, as the model gets them and as outputs show them.

Any pixel format, matrix, range, depth and transfer function (PQ, HLG and BT.2020 become BT.709 by the published
formulas); crops, non-square pixels and rotations of the container.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import make_clip, number_in, picture, tone
from colour_patches import COLOURS, patches, seen, write_patches
from PIL import Image
from witness import Witness

from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.media.frame import to_sdr
from icf_avs.media.frame_filters import Crop
from icf_avs.media.video_reader import probe, read_frames, video_frames
from icf_avs.output.overlay import Overlay
from icf_avs.output.video_writer import write_video
from icf_avs.serve.audio_override import silence
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference

pytestmark = pytest.mark.full

SIGNALS = COLOURS / 255
DEEP = ["yuv420p9le", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv420p12le", "yuv444p14le", "yuv444p16le"]
PQ, HLG = 16, 18
TO_BT2020 = np.array(  # ITU-R BT.2087, with more digits
    [(0.627403896, 0.329283038, 0.043313066), (0.069097289, 0.919540395, 0.011362316),
     (0.016391439, 0.088013308, 0.895595253)]
)  # fmt: skip
SOFT = (30 + COLOURS * 0.85).round()  # 10-bit codes are coarse near black
X265 = {"x265-params": "log-level=none:qp=1"}


def difference(image, colours=COLOURS):
    return np.abs(seen(image) - colours).max()


def frame_of(path, time=0.0):
    return next(read_frames(path, [time]))[1]


def overlay_of(info, path):
    """Overlay video without a mask."""
    mask = np.zeros((info.height, info.width), bool)
    write_video(info, path, lambda _: 0, lambda _: mask, lambda _: None, sound=silence(info))
    return path


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", *DEEP])
@pytest.mark.parametrize("matrix", [1, 5, 6, 3, 8, 10, 13, 14])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_of_every_depth_matrix_and_range(tmp_path, pix_fmt, matrix, full):
    frame = patches(SIGNALS, pix_fmt, matrix, full)
    path = write_patches(tmp_path / "a.mkv", [frame], colorspace=matrix, color_range=2 if full else 1)
    known = 8 if matrix in (1, 5, 6) else 3  # greys are the same in matrices that are not supported
    assert np.abs(seen(frame_of(path)) - COLOURS)[:known].max() <= 2


DEEP_RGB = ["gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le", "rgb48le", "gbrap16le"]


@pytest.mark.parametrize("pix_fmt", [*DEEP_RGB, "gray", "gray10le", "gray12le", "gray16le"])
def test_deep_rgb_and_grey(tmp_path, pix_fmt):
    opaque = np.concatenate([SIGNALS, np.ones((len(SIGNALS), 1))], axis=1)
    path = write_patches(tmp_path / "a.nut", [patches(opaque, pix_fmt, 0, full=True)])
    grey = np.round(COLOURS @ [[0.299], [0.587], [0.114]])
    assert difference(frame_of(path), grey if pix_fmt.startswith("gray") else COLOURS) <= 1


def test_rgb_in_the_limited_range(tmp_path):
    frame = patches(SIGNALS, "gbrp", 0, full=False)
    lossless = {"x265-params": "lossless=1:log-level=none"}
    path = write_patches(tmp_path / "a.mkv", [frame], "libx265", options=lossless, colorspace=0, color_range=1)
    assert difference(frame_of(path)) <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "tags"),
    [("a.nut", "png", "rgba", {}), ("a.nut", "ffv1", "gbrap10le", {}),
     ("a.mov", "prores_ks", "yuva444p10le", {"colorspace": 1})],
)  # fmt: skip
def test_alpha_is_composed_on_black(tmp_path, name, codec, pix_fmt, tags):
    alpha = np.linspace(0, 1, len(SIGNALS))[::-1, None]
    frame = patches(np.concatenate([SIGNALS, alpha], axis=1), pix_fmt, 1, full=pix_fmt != "yuva444p10le")
    path = write_patches(tmp_path / name, [frame], codec, **tags)
    assert difference(frame_of(path), COLOURS * alpha) <= 3


def pq(light: np.ndarray) -> np.ndarray:
    """cd/m2 -> signal: the inverse EOTF of SMPTE ST 2084."""
    power = (light / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light: np.ndarray) -> np.ndarray:
    """cd/m2 of a display of 1000 cd/m2, RGB -> signal: inverse OOTF and OETF of ITU-R BT.2100."""
    luminance = (light / 1000) @ [0.2627, 0.6780, 0.0593]
    scene = light / 1000 * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    curve = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), curve)


def graded(colours: np.ndarray, transfer: int) -> np.ndarray:
    """SDR colours (0 to 255) at a white of 100 cd/m2, as HDR signals of BT.2020."""
    light = 100 * (colours / 255) ** 2.4 @ TO_BT2020.T
    return pq(light) if transfer == PQ else hlg(light)


def shown_as_sdr(signals: np.ndarray, transfer: int) -> np.ndarray:
    return to_sdr((signals[None].clip(0, 1) * 65535).round().astype(np.uint16), transfer, 9)[0].astype(int)


def test_the_oracle_has_the_published_values():
    """ITU-R BT.2390 and BT.2408 print .5081, .58 and .75 for 100, 203 and 1000 (PQ) and .75 for 203 cd/m2 (HLG)."""
    codes = np.round(pq(np.array([0, 100, 203, 1000, 10_000])) * 1023)  # of 10 bits
    np.testing.assert_allclose(codes, [0, 520, 594, 769, 1023], atol=1)
    assert hlg(np.full(3, 203.0)) == pytest.approx(0.75, abs=0.002)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_sdr_colours_graded_as_hdr_and_wide_gamut_come_back(transfer):
    colours = np.concatenate([COLOURS, np.random.default_rng(0).integers(0, 256, (500, 3))])
    assert np.abs(shown_as_sdr(graded(colours, transfer), transfer) - colours).max() <= 2
    assert np.abs(shown_as_sdr((SIGNALS**2.4 @ TO_BT2020.T) ** (1 / 2.4), 14) - COLOURS).max() <= 2


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_bright_light_is_compressed_in_order_and_dark_light_is_kept(transfer):
    light = np.array([1, 10, 26, 49, 100, 203, 400, 999.0])[:, None].repeat(3, axis=1)
    shown = shown_as_sdr(pq(light) if transfer == PQ else hlg(light), transfer)
    assert (shown == shown[:, :1]).all()  # grey stays grey
    grey = shown[:, 0]
    assert np.abs(grey[:4] - 255 * (light[:4, 0] / 100) ** (1 / 2.4)).max() <= 1
    assert (np.diff(grey) > 0).all() and grey[-1] == 255 and grey[-3] < 250


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(
    ("end", "codec", "pix_fmt", "options"),
    [("mp4", "libx265", "yuv420p10le", X265), ("mkv", "ffv1", "yuv444p12le", {}), ("mkv", "ffv1", "gbrp16le", {})],
)
def test_hdr_files_are_seen_and_shown_as_sdr(tmp_path, transfer, end, codec, pix_fmt, options):
    frames = [patches(graded(SOFT, transfer), pix_fmt, 9, full=pix_fmt == "gbrp16le") for _ in range(5)]
    tags = {} if pix_fmt == "gbrp16le" else {"colorspace": 9, "color_range": 1}
    tags |= {"color_trc": transfer, "color_primaries": 9}
    info = probe(write_patches(tmp_path / f"a.{end}", frames, codec, options=options, **tags))
    assert difference(frame_of(info, 0.1), SOFT) <= 6
    film = overlay_of(info, tmp_path / "film.mp4")
    with av.open(str(film)) as video:
        stored = next(video.decode(video=0))
        assert (stored.colorspace, stored.color_trc, stored.color_primaries) == (1, 1, 1)
    assert difference(frame_of(film, 0.1), SOFT) <= 9


def joined(path, *parts):
    """Concatenate H.264 streams: size, format and colours change where the next one begins."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize(
    ("colours", "kinds", "tolerances"),
    [(COLOURS, [("yuv420p", 5, 1, 1, 32), ("yuv420p", 1, 1, 1, 32), ("yuv420p", 1, 1, 2, 64),
                ("yuv422p10le", 1, 1, 1, 48)], (2, 8)),
     (SOFT, [("yuv420p10le", 1, 1, 1, 32), ("yuv420p10le", 9, HLG, 1, 32)], (4, 9))],
)  # fmt: skip
def test_format_and_colours_may_change_within_a_stream(tmp_path, colours, kinds, tolerances):
    """Frames by their own tags, the overlay in the colours of the first."""
    parts = []
    for number, (pix_fmt, matrix, transfer, extent, side) in enumerate(kinds):
        signals = graded(colours, transfer) if transfer == HLG else colours / 255
        tags = {"colorspace": matrix, "color_trc": transfer, "color_primaries": matrix, "color_range": extent}
        frames = [patches(signals, pix_fmt, matrix, extent == 2, side) for _ in range(5)]
        parts.append(write_patches(tmp_path / f"{number}.h264", frames, "libx264", options={"qp": "0"}, **tags))
    info = probe(joined(tmp_path / "a.h264", *parts))
    times = [0.1 + 0.2 * number for number in range(len(kinds))]
    for source, tolerance in zip((info, overlay_of(info, tmp_path / "film.mp4")), tolerances, strict=True):
        for time, image in read_frames(source, times):
            assert difference(image, colours) <= tolerance, time


def test_size_may_change_within_an_interlaced_and_cropped_stream(tmp_path):
    """Filters are made for one size."""
    parts = []
    for number, size in enumerate([(160, 120), (320, 240), (160, 120)]):
        fields = {"x264-params": "tff=1" if number < 2 else "", "qp": "0"}
        parts.append(make_clip(tmp_path / f"{number}.h264", seconds=0.2, size=size, options=fields))
    info = replace(probe(joined(tmp_path / "a.h264", *parts)), crop=Crop(4, 2, 6, 8), width=154, height=106)
    found = [(time, picture.frame.width, picture.frame.height) for time, picture in video_frames(info)]
    assert [time for time, *_ in found] == pytest.approx([n / 25 for n in range(15)], abs=0.01)
    assert [size for _, *size in found] == [[154, 106]] * 5 + [[314, 226]] * 5 + [[154, 106]] * 5
    for _, image in read_frames(info, [0.1, 0.5]):
        assert image.shape == (106, 154, 3) and number_in(np.pad(image, ((6, 0), (4, 0), (0, 0)), mode="edge")) == 2


def test_cropped_borders_are_in_no_output(tmp_path):
    """PixelCrop of Matroska is written in place of the tags between the frame size and the codec data."""
    cut, (width, height) = Crop(left=40, right=24, top=16, bottom=22), (176, 122)
    frames = []
    for number in range(25):
        image = np.pad(picture(number, width, height), ((16, 22), (40, 24), (0, 0)), constant_values=255)
        frames.append(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p"))
    path = write_patches(tmp_path / "a.mkv", frames, "libx264", tone(1), colorspace=5, color_range=1, color_primaries=1)
    data = bytearray(path.read_bytes())
    at = data.find(b"\xb0\x81\xf0\xba\x81\xa0") + 6  # PixelWidth, PixelHeight
    end = data.find(b"\x55\xee", at)  # the element behind Video
    values = [(0x54CC, cut.left), (0x54BB, cut.top), (0x54DD, cut.right), (0x54AA, cut.bottom)]
    crop = b"".join(struct.pack(">HBB", key, 0x81, value) for key, value in values)
    padding = end - at - len(crop) - 2
    data[at:end] = crop + bytes([0xEC, 0x80 | padding]) + bytes(padding)
    path.write_bytes(data)

    assert Crop(50, 50, 0, 0).filter_of(100, 100) is None
    info, model = probe(path), Witness()
    assert (info.crop, (info.width, info.height), info.pixel_aspect) == (cut, (width, height), 1)
    assert np.abs(frame_of(info, 0.42).astype(int) - picture(10, width, height))[2:-2, 2:-2].mean() < 6
    result = segment_video(model, path, tmp_path / "out")
    assert result.masks.shape == (1, height, width)
    assert model.frames[0].mean() < 140  # without the white borders
    film = probe(result.folder / "overlay.mp4")
    assert (film.width, film.height) == (width, height) and number_in(frame_of(film, 0.42)) == 10
    with Image.open(result.folder / "sheet.png") as sheet:
        assert sheet.width - 12 == width


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(16, 11), Fraction(1, 2)])
def test_every_output_has_the_display_aspect_ratio(tmp_path, aspect, rotation):
    path = make_clip(tmp_path / "a.mp4", seconds=1, fps=5, sound=tone(1), pixel_aspect=aspect, rotation=rotation)
    width, height = (120, 160) if rotation else (160, 120)
    aspect = 1 / aspect if rotation else aspect
    result = segment_video(Witness(), path, tmp_path / "out")
    assert result.masks.shape == (1, height, width) and result.video.pixel_aspect == aspect
    info = probe(result.folder / "overlay.mp4")
    assert (info.width, info.height, info.pixel_aspect) == (width, height, aspect)

    shown = max(1, aspect) * width / (max(1, 1 / aspect) * height)
    with Image.open(result.folder / "sheet.png") as sheet:
        assert (sheet.width - 12) / (sheet.height - 34) == pytest.approx(shown, rel=0.02)
    ((preview, _),) = run_inference(Segmenter(Witness(), ""), path, tmp_path, Limits()).pictures
    with Image.open(preview) as image:
        assert max(image.size) <= 320 and image.width / image.height == pytest.approx(shown, rel=0.02)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_frames_overlays_and_sheets_are_rotated_and_mirrored(tmp_path, rotation, flip):
    path = make_clip(tmp_path / "a.mp4", seconds=1, fps=5, sound=tone(1), rotation=rotation, flip=flip)
    expected = np.rot90(picture(2), rotation // 90)[:, :: -1 if flip else 1].copy()  # mirrored after it is turned
    height, width = expected.shape[:2]
    info = probe(path)
    ((_, image),) = read_frames(info, [0.5])
    assert (info.height, info.width) == (height, width) and image.flags["C_CONTIGUOUS"]
    assert np.abs(image.astype(int) - expected).mean() < 6
    result = segment_video(Witness(), path, tmp_path / "out")
    assert 0 < result.masks.mean() < 0.1  # the white square of the number
    Overlay(result.masks[0]).draw_rgb(expected)
    ((_, film),) = read_frames(result.folder / "overlay.mp4", [0.5])
    assert film.shape == expected.shape and np.abs(film.astype(int) - expected).mean() < 12
    with Image.open(result.folder / "sheet.png") as sheet:
        tile = np.asarray(sheet)[6 : 6 + height, 6 : 6 + width].astype(int)
    assert np.abs(tile - expected).mean() < 12
