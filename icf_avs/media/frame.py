"""A decoded frame and its conversion to standard dynamic range (SDR): 8-bit RGB or YUV without alpha.

High dynamic range (HDR) and wide gamut are mapped to BT.709 with at most 100 cd/m2. PQ: SMPTE ST 2084. HLG: ITU-R
BT.2100 on a display of 1000 cd/m2. Content within 100 cd/m2 is preserved. In brighter frames, light up to a knee at 50
cd/m2 (higher, if the frame is only a little brighter) is preserved and light above it is compressed, hue preserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

_WHITE = 100.0  # cd/m2; peak luminance of an SDR display, BT.1886
_GAMMA = 2.4
_HLG_PEAK, _HLG_GAMMA = 1000.0, 1.2
_KNEE = 0.5  # lowest knee, relative to _WHITE
_PEAK_PERCENTILE = 99.9  # percentile that defines the peak of a frame; brighter pixels are clipped
_STEPS = 4096  # entries of the table from light to signals, uniform in the square root of light
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
# Conversion matrices: linear light [n, 3] in these primaries @ matrix -> BT.709. All have white point D65.
_FROM_P3 = (1.224940181, -0.042056955, -0.019637555), (-0.224940181, 1.042056918, -0.078636043), (0, 0, 1.098273635)
_FROM_BT2020 = (
    (1.660490990, -0.124550477, -0.018150764),
    (-0.587641120, 1.132899880, -0.100578897),
    (-0.072849862, -0.008349422, 1.118729711),
)
_TO_BT709 = {ColorPrimaries.BT709: np.eye(3), ColorPrimaries.SMPTE432: _FROM_P3}


def is_hdr_or_wide_gamut(transfer: int, primaries: int) -> bool:
    """True if frames with these tags are HDR or wide gamut."""
    return transfer in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67) or primaries == ColorPrimaries.BT2020


def to_sdr(codes: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Tone-map RGB signals, uint16 [H, W, 3] in full range, to SDR uint8 [H, W, 3].

    transfer, primaries: FFmpeg's tags; unknown primaries are treated as BT.2020.
    """
    light = _signal_to_light(transfer)[codes.reshape(-1, 3)]
    if transfer == ColorTrc.ARIB_STD_B67:  # scene to display
        light *= (_HLG_PEAK / _WHITE) * ((light @ _LUMINANCE) ** (_HLG_GAMMA - 1))[:, None]
    light = (light @ np.array(_TO_BT709.get(primaries, _FROM_BT2020), np.float32)).clip(0)
    max_channel = np.maximum(np.maximum(light[:, 0], light[:, 1]), light[:, 2])
    peak = float(np.percentile(max_channel[:: max(1, len(max_channel) // 100_000)], _PEAK_PERCENTILE))
    if peak > 1.001:
        light *= _compression(max_channel, peak)[:, None]
    roots = np.sqrt(light.clip(0, 1), out=light)
    return _light_to_signal()[(roots * (_STEPS - 1) + 0.5).astype(np.uint16)].reshape(codes.shape)


def _compression(light: np.ndarray, peak: float) -> np.ndarray:
    """Return the factor on light: 1 up to the knee, and such that `peak` becomes 1 (Reinhard's extended curve)."""
    knee = max(_KNEE, 1 / peak)
    excess, max_excess = (np.maximum(light, knee) - knee) / (1 - knee), (peak - knee) / (1 - knee)
    reduced = excess * (1 + excess / max_excess**2) / (1 + excess)
    return (knee + (1 - knee) * reduced) / (knee + (1 - knee) * excess)


@lru_cache(maxsize=4)
def _signal_to_light(transfer: int) -> np.ndarray:
    """Table from 16-bit signals to light, float32: display light in units of _WHITE; for HLG, scene light."""
    signal = np.arange(65536) / 65535
    if transfer == ColorTrc.SMPTE2084:
        power = signal ** (1 / 78.84375)
        light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        light *= 10_000 / _WHITE
    elif transfer == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**_GAMMA
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _light_to_signal() -> np.ndarray:
    roots = np.arange(_STEPS) / (_STEPS - 1)
    return (255 * roots ** (2 / _GAMMA)).round().astype(np.uint8)


_BT709, _UNKNOWN, _BT2020, _BT2020_CONSTANT = 1, 2, 9, 10  # matrices, in FFmpeg's numbering
_MATRICES = {0, _BT709, _UNKNOWN, 4, 5, 6, 7, _BT2020}  # supported by FFmpeg; it rejects frames with others
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_DEEP = Interpolation.BILINEAR | Interpolation.ACCURATE_RND  # to 16 bits, "full chroma" gives wrong colours
_PLAIN = {"yuv420p", "yuvj420p"}  # for these the faster conversion is exact to 2 of 255


@dataclass(frozen=True)
class DecodedFrame:
    """Decoded frame as stored: not rotated, any pixel format. The colour tags are copied on creation, as other threads
    cannot read them while one thread converts the frame.
    """

    frame: av.VideoFrame
    matrix: int
    transfer: int
    primaries: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> DecodedFrame:
        """Wrap a frame that no other thread uses yet; replace a color matrix that FFmpeg does not convert."""
        if frame.colorspace not in _MATRICES:
            frame.colorspace = _BT2020 if frame.colorspace == _BT2020_CONSTANT else _UNKNOWN
        return cls(frame, frame.colorspace, frame.color_trc, frame.color_primaries)

    @property
    def output_colour_tags(self) -> tuple[int, int]:
        """Transfer and primaries after conversion."""
        is_mapped = is_hdr_or_wide_gamut(self.transfer, self.primaries)
        return (ColorTrc.BT709, ColorPrimaries.BT709) if is_mapped else (self.transfer, self.primaries)

    def converted(self, reformatter: VideoReformatter, width: int, height: int, pix_fmt: str) -> av.VideoFrame:
        """Convert to a size and pixel format; return the frame itself if nothing needs to be done.

        HDR and wide gamut are mapped to BT.709, alpha is composited on black, and limited-range RGB is expanded.
        Raises FFmpegError or ValueError for a pixel format that cannot be converted.
        """
        rgb = self._to_sdr_rgb(reformatter)
        frame = self.frame
        if rgb is not None:
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.colorspace, frame.color_range = _BT709, ColorRange.JPEG
        interpolation = Interpolation.BILINEAR if frame.format.name in _PLAIN else _EXACT
        return reformatter.reformat(frame, width, height, pix_fmt, interpolation=interpolation)

    def _to_sdr_rgb(self, reformatter: VideoReformatter) -> np.ndarray | None:
        """Return RGB uint8 [H, W, 3] if FFmpeg's conversion is not sufficient, else None."""
        pixel_format = self.frame.format
        if is_hdr_or_wide_gamut(self.transfer, self.primaries):
            matrix = Colorspace.BT2020 if self.matrix == _UNKNOWN else None
            deep = reformatter.reformat(self.frame, format="rgb48le", src_colorspace=matrix, interpolation=_DEEP)
            return to_sdr(deep.to_ndarray(), self.transfer, self.primaries)
        if pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components):
            rgba = reformatter.reformat(self.frame, format="rgba", interpolation=_EXACT).to_ndarray()
            rgb, alpha = rgba[..., :3], rgba[..., 3:]
            return None if alpha.min() == 255 else ((rgb * alpha.astype(np.uint16) + 127) // 255).astype(np.uint8)
        if pixel_format.is_rgb and self.frame.color_range == ColorRange.MPEG:
            rgb = reformatter.reformat(self.frame, format="rgb24").to_ndarray().astype(np.float32)
            return ((rgb - 16) * (255 / 219)).round().clip(0, 255).astype(np.uint8)
        return None
