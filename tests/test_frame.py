"""Colours and geometry of frames, as the model gets them and as outputs show them.

Pixel formats, matrices, ranges, depths and transfer functions (PQ, HLG and BT.2020 become BT.709 by the published
formulas); non-square pixels and rotations. The videos are written by the formulas of the standards.
"""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import make_clip, picture, tone
from PIL import Image
from witness import Witness

from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.media.frame import to_sdr
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.overlay import Overlay
from icf_avs.output.video_writer import write_video
from icf_avs.serve.audio_override import silence
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference

pytestmark = pytest.mark.full

COLOURS = np.array([(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255),
                    (200, 100, 50), (30, 60, 90)])  # fmt: skip
SIGNALS = COLOURS / 255
SOFT = (30 + COLOURS * 0.85).round()  # 10-bit codes are coarse near black
SIDE = 32  # of a patch
LUMINANCE = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
PQ, HLG = 16, 18  # AVColorTransferCharacteristic
TO_BT2020 = np.array([(0.627403896, 0.329283038, 0.043313066), (0.069097289, 0.919540395, 0.011362316),  # BT.2087
                      (0.016391439, 0.088013308, 0.895595253)])  # fmt: skip


def patches(signals, pix_fmt, matrix=5, full=False):
    """Frame of n patches in a row. signals: RGB in 0..1, [n, 3], or [n, 4] with alpha. matrix: AVColorSpace number."""
    frame = av.VideoFrame(SIDE * len(signals), SIDE, pix_fmt)
    top = (1 << frame.format.components[0].bits) - 1
    low, span, chroma = (0, top, top) if full else ((top + 1) // 16, 219 * (top + 1) // 256, 224 * (top + 1) // 256)
    red, blue = LUMINANCE.get(matrix, (0.299, 0.114))
    r, g, b = signals[:, :3].T
    y = red * r + (1 - red - blue) * g + blue * b
    if pix_fmt.startswith("gbr"):
        planes = [low + span * channel for channel in (g, b, r)]
    elif pix_fmt.startswith("gray"):
        planes = [top * y]  # FFmpeg has grey in full range only
    elif pix_fmt.startswith("yuv"):
        u, v = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
        planes = [low + span * y, *((top + 1) // 2 + chroma * part for part in (u, v))]
    else:
        planes = [np.round(signals[:, [*"rgba"].index(name)] * top) for name in pix_fmt[:4].rstrip("0123456789")]
        planes = [np.stack(planes, axis=-1)]
    if signals.shape[1] == 4 and len(frame.planes) == 4:
        planes.append(signals[:, 3] * top)
    for plane, values in zip(frame.planes, planes, strict=True):
        kind = np.dtype("<u2" if top > 255 else "u1")
        row = np.repeat(values.round().clip(0, top).astype(kind), plane.width // len(signals), axis=0).ravel()
        whole = np.zeros((plane.height, plane.line_size // kind.itemsize), kind)
        whole[:, : len(row)] = row
        plane.update(whole.tobytes())
    return frame


def write(path, frames, codec="ffv1", options=None, **tags):
    """Write frames at 25 fps. tags: colorspace, color_range, color_trc, color_primaries, as numbers."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options or {})
        video.width, video.height, video.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        video.codec_context.time_base = Fraction(1, 25)
        for name, value in tags.items():
            for tagged in (video.codec_context, *frames):
                setattr(tagged, name, value)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, video.codec_context.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def frame_of(path, time=0.0):
    return next(read_frames(path, [time]))[1]


def differences(image, colours=COLOURS):
    """At the centre of each patch."""
    return np.abs(image[image.shape[0] // 2, SIDE // 2 :: SIDE].astype(int) - colours)


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv444p16le"]
)
@pytest.mark.parametrize("matrix", [1, 5, 6, 3, 8, 10, 13, 14])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_of_every_depth_matrix_and_range(tmp_path, pix_fmt, matrix, full):
    frame = patches(SIGNALS, pix_fmt, matrix, full)
    path = write(tmp_path / "a.mkv", [frame], colorspace=matrix, color_range=2 if full else 1)
    known = 8 if matrix in (1, 5, 6) else 3  # greys are the same in matrices that are not supported
    assert differences(frame_of(path))[:known].max() <= 2


@pytest.mark.parametrize("pix_fmt", ["gbrp10le", "gbrp14le", "rgb48le", "gbrap16le", "gray", "gray10le", "gray16le"])
def test_deep_rgb_and_grey(tmp_path, pix_fmt):
    opaque = np.concatenate([SIGNALS, np.ones((len(SIGNALS), 1))], axis=1)
    path = write(tmp_path / "a.nut", [patches(opaque, pix_fmt, 0, full=True)])
    grey = np.round(COLOURS @ [[0.299], [0.587], [0.114]])
    assert differences(frame_of(path), grey if pix_fmt.startswith("gray") else COLOURS).max() <= 1


def test_rgb_in_the_limited_range(tmp_path):
    lossless, tags = {"x265-params": "lossless=1:log-level=none"}, {"colorspace": 0, "color_range": 1}
    path = write(tmp_path / "a.mkv", [patches(SIGNALS, "gbrp", 0)], "libx265", options=lossless, **tags)
    assert differences(frame_of(path)).max() <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "tags"),
    [("a.nut", "png", "rgba", {}), ("a.nut", "ffv1", "gbrap10le", {}),
     ("a.mov", "prores_ks", "yuva444p10le", {"colorspace": 1})],
)  # fmt: skip
def test_alpha_is_composed_on_black(tmp_path, name, codec, pix_fmt, tags):
    alpha = np.linspace(0, 1, len(SIGNALS))[::-1, None]
    frame = patches(np.concatenate([SIGNALS, alpha], axis=1), pix_fmt, 1, full=pix_fmt != "yuva444p10le")
    assert differences(frame_of(write(tmp_path / name, [frame], codec, **tags)), COLOURS * alpha).max() <= 3


def signals_of(light: np.ndarray, transfer: int) -> np.ndarray:
    """cd/m2, RGB -> signal. PQ: inverse EOTF of SMPTE ST 2084. HLG: inverse OOTF and OETF of ITU-R BT.2100, for a
    display of 1000 cd/m2.
    """
    if transfer == PQ:
        power = (light / 10_000) ** (2610 / 16384)
        return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    luminance = (light / 1000) @ [0.2627, 0.6780, 0.0593]
    scene = light / 1000 * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    curve = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), curve)


def graded(colours: np.ndarray, transfer: int) -> np.ndarray:
    """SDR colours (0 to 255) at a white of 100 cd/m2, as HDR signals of BT.2020."""
    return signals_of(100 * (colours / 255) ** 2.4 @ TO_BT2020.T, transfer)


def shown_as_sdr(signals: np.ndarray, transfer: int) -> np.ndarray:
    return to_sdr((signals[None].clip(0, 1) * 65535).round().astype(np.uint16), transfer, 9)[0].astype(int)


def test_the_oracle_has_the_published_values():
    """ITU-R BT.2390 and BT.2408 print .5081, .58 and .75 for 100, 203 and 1000 (PQ) and .75 for 203 cd/m2 (HLG)."""
    codes = np.round(signals_of(np.array([0, 100, 203, 1000, 10_000]), PQ) * 1023)  # of 10 bits
    np.testing.assert_allclose(codes, [0, 520, 594, 769, 1023], atol=1)
    assert signals_of(np.full(3, 203.0), HLG) == pytest.approx(0.75, abs=0.002)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_sdr_colours_come_back_and_bright_light_is_compressed_in_order(transfer):
    colours = np.concatenate([COLOURS, np.random.default_rng(0).integers(0, 256, (500, 3))])
    assert np.abs(shown_as_sdr(graded(colours, transfer), transfer) - colours).max() <= 2
    assert np.abs(shown_as_sdr((SIGNALS**2.4 @ TO_BT2020.T) ** (1 / 2.4), 14) - COLOURS).max() <= 2

    light = np.array([1, 10, 26, 49, 100, 203, 400, 999.0])[:, None].repeat(3, axis=1)
    shown = shown_as_sdr(signals_of(light, transfer), transfer)
    assert (shown == shown[:, :1]).all()  # grey stays grey
    grey = shown[:, 0]
    assert np.abs(grey[:4] - 255 * (light[:4, 0] / 100) ** (1 / 2.4)).max() <= 1  # dark light is kept
    assert (np.diff(grey) > 0).all() and grey[-1] == 255 and grey[-3] < 250


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(
    ("end", "codec", "pix_fmt"),
    [("mp4", "libx265", "yuv420p10le"), ("mkv", "ffv1", "yuv444p12le"), ("mkv", "ffv1", "gbrp16le")],
)
def test_hdr_files_are_seen_and_shown_as_sdr(tmp_path, transfer, end, codec, pix_fmt):
    frames = [patches(graded(SOFT, transfer), pix_fmt, 9, full=pix_fmt == "gbrp16le") for _ in range(5)]
    tags = {"color_trc": transfer, "color_primaries": 9}
    tags |= {} if pix_fmt == "gbrp16le" else {"colorspace": 9, "color_range": 1}
    options = {"x265-params": "log-level=none:qp=1"} if codec == "libx265" else {}
    info = probe(write(tmp_path / f"a.{end}", frames, codec, options=options, **tags))
    assert differences(frame_of(info, 0.1), SOFT).max() <= 6
    film, mask = tmp_path / "film.mp4", np.zeros((info.height, info.width), bool)
    write_video(info, film, lambda _: 0, lambda _: mask, lambda _: None, sound=silence(info))
    with av.open(str(film)) as video:
        stored = next(video.decode(video=0))
        assert (stored.colorspace, stored.color_trc, stored.color_primaries) == (1, 1, 1)
    assert differences(frame_of(film, 0.1), SOFT).max() <= 9


TURNED = [(rotation, flip, Fraction(1)) for rotation in (0, 90, 180, -90) for flip in (False, True)]
TURNED += [
    (rotation, False, aspect) for rotation in (0, 90) for aspect in (Fraction(2), Fraction(16, 11), Fraction(1, 2))
]


@pytest.mark.parametrize(("rotation", "flip", "aspect"), TURNED)
def test_every_output_is_rotated_mirrored_and_of_the_display_aspect_ratio(tmp_path, rotation, flip, aspect):
    turned = {"rotation": rotation, "flip": flip, "pixel_aspect": aspect}
    path = make_clip(tmp_path / "a.mp4", seconds=1, fps=5, sound=tone(1), **turned)
    expected = np.rot90(picture(2), rotation // 90)[:, :: -1 if flip else 1].copy()  # mirrored after it is turned
    height, width = expected.shape[:2]
    aspect = aspect if width > height else 1 / aspect
    image = frame_of(path, 0.5)
    assert image.flags["C_CONTIGUOUS"] and np.abs(image.astype(int) - expected).mean() < 6
    result = segment_video(Witness(), path, tmp_path / "out")
    assert 0 < result.masks.mean() < 0.1 and result.video.pixel_aspect == aspect  # the white square of the number
    Overlay(result.masks[0]).draw_rgb(expected)
    film = probe(result.folder / "overlay.mp4")
    assert (film.width, film.height, film.pixel_aspect) == (width, height, aspect)
    assert np.abs(frame_of(film, 0.5).astype(int) - expected).mean() < 12

    shown = max(1, aspect) * width / (max(1, 1 / aspect) * height)
    with Image.open(result.folder / "sheet.png") as sheet:
        assert (sheet.width - 12) / (sheet.height - 34) == pytest.approx(shown, rel=0.02)
        tile = np.asarray(sheet)[6 : 6 + height, 6 : 6 + width].astype(int)
    assert aspect != 1 or np.abs(tile - expected).mean() < 12
    ((preview, _),) = run_inference(Segmenter(Witness(), ""), path, tmp_path, Limits()).pictures
    with Image.open(preview) as image:
        assert max(image.size) <= 320 and image.width / image.height == pytest.approx(shown, rel=0.02)
