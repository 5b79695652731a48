"""PQ, HLG and BT.2020 become BT.709 by the published formulas, in model inputs and overlay videos."""

from __future__ import annotations

import av
import numpy as np
import pytest
from colour_patches import COLOURS, patches, seen, write_patches

from icf_avs.media.frame import to_sdr
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.video_writer import write_video
from icf_avs.serve.audio_override import silence

pytestmark = pytest.mark.full

PQ, HLG = 16, 18
TO_BT2020 = np.array(  # ITU-R BT.2087, with more digits
    [(0.627403896, 0.329283038, 0.043313066), (0.069097289, 0.919540395, 0.011362316),
     (0.016391439, 0.088013308, 0.895595253)]
)  # fmt: skip
SOFT = (30 + COLOURS * 0.85).round()  # 10-bit codes are coarse near black
X265 = {"x265-params": "log-level=none:qp=1"}


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


def graded(colours: np.ndarray, transfer: int, white: float = 100.0) -> np.ndarray:
    """SDR colours (0 to 255) at a white of so many cd/m2, as HDR signals of BT.2020."""
    light = white * (colours / 255) ** 2.4 @ TO_BT2020.T
    return pq(light) if transfer == PQ else hlg(light)


def codes(signals: np.ndarray) -> np.ndarray:
    return (signals[None].clip(0, 1) * 65535).round().astype(np.uint16)


@pytest.mark.parametrize(("light", "code"), [(0, 0), (100, 520), (203, 594), (1000, 769), (10_000, 1023)])
def test_the_oracle_has_the_published_values_of_pq(light, code):
    """Codes of 10 bits in the full range: ITU-R BT.2390 and BT.2408 print .5081, .58 and .75 for 100, 203 and 1000."""
    assert round(float(pq(np.array(light))) * 1023) == pytest.approx(code, abs=1)


def test_the_oracle_has_the_published_value_of_hlg():
    assert hlg(np.full(3, 203.0)) == pytest.approx(0.75, abs=0.002)  # diffuse white, ITU-R BT.2408


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_sdr_colours_graded_as_hdr_come_back(transfer):
    colours = np.concatenate([COLOURS, np.random.default_rng(0).integers(0, 256, (500, 3))])
    back = to_sdr(codes(graded(colours, transfer)), transfer, 9)[0]
    assert np.abs(back.astype(int) - colours).max() <= 2


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_bright_light_is_compressed_in_order_and_dark_light_is_kept(transfer):
    light = np.array([1, 10, 26, 49, 100, 203, 400, 999.0])
    signals = pq(light) if transfer == PQ else hlg(np.repeat(light[:, None], 3, axis=1))[:, 0]
    shown = to_sdr(codes(np.repeat(signals[:, None], 3, axis=1)), transfer, 9)[0]
    assert (shown == shown[:, :1]).all()  # grey stays grey
    grey = shown[:, 0].astype(int)
    assert np.abs(grey[:4] - 255 * (light[:4] / 100) ** (1 / 2.4)).max() <= 1
    assert (np.diff(grey) > 0).all() and grey[-1] == 255 and grey[-3] < 250


def test_wide_gamut_without_hdr():
    signals = ((COLOURS / 255) ** 2.4 @ TO_BT2020.T) ** (1 / 2.4)
    assert np.abs(to_sdr(codes(signals), 14, 9)[0].astype(int) - COLOURS).max() <= 2


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "options", "name"),
    [("libx265", "yuv420p10le", X265, "a.mp4"), ("ffv1", "yuv420p10le", {}, "a.mkv"),
     ("ffv1", "yuv444p12le", {}, "b.mkv"), ("ffv1", "gbrp16le", {}, "c.mkv")],
)  # fmt: skip
def test_files_are_seen_and_shown_as_sdr(tmp_path, transfer, codec, pix_fmt, options, name):
    frames = [patches(graded(SOFT, transfer), pix_fmt, 9, full=pix_fmt == "gbrp16le") for _ in range(5)]
    tags = {} if pix_fmt == "gbrp16le" else {"colorspace": 9, "color_range": 1}
    path = write_patches(tmp_path / name, frames, codec, options=options, color_trc=transfer, color_primaries=9, **tags)
    info = probe(path)
    ((_, image),) = read_frames(info, [0.1])
    assert np.abs(seen(image) - SOFT).max() <= 6

    mask = np.zeros((info.height, info.width), bool)
    write_video(info, tmp_path / "film.mp4", lambda _: 0, lambda _: mask, lambda _: None, sound=silence(info))
    with av.open(str(tmp_path / "film.mp4")) as video:
        stored = next(video.decode(video=0))
        assert (stored.colorspace, stored.color_trc, stored.color_primaries) == (1, 1, 1)
    ((_, image),) = read_frames(tmp_path / "film.mp4", [0.1])
    assert np.abs(seen(image) - SOFT).max() <= 9


def test_sdr_that_changes_to_hdr(tmp_path):
    """Within one H.264 stream: frames by their own tags, the overlay in the colours of the first."""
    parts = []
    for number, (signals, tags) in enumerate([(SOFT / 255, (1, 1, 1)), (graded(SOFT, HLG), (9, HLG, 9))]):
        matrix, transfer, primaries = tags
        frames = [patches(signals, "yuv420p10le", matrix) for _ in range(5)]
        more = {"colorspace": matrix, "color_trc": transfer, "color_primaries": primaries, "color_range": 1}
        parts.append(write_patches(tmp_path / f"{number}.h264", frames, "libx264", options={"qp": "0"}, **more))
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(tmp_path / "a.h264")
    for time, image in read_frames(info, [0.1, 0.3]):
        assert np.abs(seen(image) - SOFT).max() <= 4, time
    mask = np.zeros((info.height, info.width), bool)
    write_video(info, tmp_path / "film.mp4", lambda _: 0, lambda _: mask, lambda _: None, sound=silence(info))
    for time, image in read_frames(tmp_path / "film.mp4", [0.1, 0.3]):
        assert np.abs(seen(image) - SOFT).max() <= 9, time
