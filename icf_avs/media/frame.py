"""A decoded frame and its conversion to what an ordinary display shows: RGB or YUV of 8 bits, without alpha."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from icf_avs.media.hdr import is_wide, to_sdr

_BT709, _UNKNOWN, _BT2020, _BT2020_CONSTANT = 1, 2, 9, 10  # matrices, in FFmpeg's numbering
_MATRICES = {0, _BT709, _UNKNOWN, 4, 5, 6, 7, _BT2020}  # that FFmpeg converts; it refuses a frame with any other
_EXACT = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
_DEEP = Interpolation.BILINEAR | Interpolation.ACCURATE_RND  # to 16 bits, "full chroma" gives wrong colours
_PLAIN = {"yuv420p", "yuvj420p"}  # exact to 2 of 255 by the faster way


@dataclass(frozen=True)
class DecodedFrame:
    """As stored: not turned, of any pixel format. Its tags are read at once: while one thread converts the frame they
    are hidden from all others.
    """

    frame: av.VideoFrame
    matrix: int
    transfer: int
    primaries: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> DecodedFrame:
        """Take a frame that nobody else has yet."""
        if frame.colorspace not in _MATRICES:
            frame.colorspace = _BT2020 if frame.colorspace == _BT2020_CONSTANT else _UNKNOWN
        return cls(frame, frame.colorspace, frame.color_trc, frame.color_primaries)

    @property
    def shown_as(self) -> tuple[int, int]:
        """Transfer and primaries of what it is converted to."""
        wide = is_wide(self.transfer, self.primaries)
        return (ColorTrc.BT709, ColorPrimaries.BT709) if wide else (self.transfer, self.primaries)

    def converted(self, reformatter: VideoReformatter, width: int, height: int, pix_fmt: str) -> av.VideoFrame:
        """The frame at that size; the frame itself where nothing is to be done.

        HDR and wide gamut become BT.709 (hdr.py), alpha is composed on black, and RGB in the limited range is expanded.
        Raises FFmpegError or ValueError for a pixel format that cannot be converted.
        """
        rgb = self._ordinary(reformatter)
        frame = self.frame
        if rgb is not None:
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.colorspace, frame.color_range = _BT709, ColorRange.JPEG
        how = Interpolation.BILINEAR if frame.format.name in _PLAIN else _EXACT
        return reformatter.reformat(frame, width, height, pix_fmt, interpolation=how)

    def _ordinary(self, reformatter: VideoReformatter) -> np.ndarray | None:
        """uint8 [H, W, 3] where FFmpeg's own conversion would not do, else None."""
        kind = self.frame.format
        if is_wide(self.transfer, self.primaries):
            matrix = Colorspace.BT2020 if self.matrix == _UNKNOWN else None
            deep = reformatter.reformat(self.frame, format="rgb48le", src_colorspace=matrix, interpolation=_DEEP)
            return to_sdr(deep.to_ndarray(), self.transfer, self.primaries)
        if kind.has_palette or any(component.is_alpha for component in kind.components):
            rgba = reformatter.reformat(self.frame, format="rgba", interpolation=_EXACT).to_ndarray()
            rgb, alpha = rgba[..., :3], rgba[..., 3:]
            return None if alpha.min() == 255 else ((rgb * alpha.astype(np.uint16) + 127) // 255).astype(np.uint8)
        if kind.is_rgb and self.frame.color_range == ColorRange.MPEG:
            rgb = reformatter.reformat(self.frame, format="rgb24").to_ndarray().astype(np.float32)
            return ((rgb - 16) * (255 / 219)).round().clip(0, 255).astype(np.uint8)
        return None
