"""A video whose alpha channel is the mask, for editing and compositing: ProRes 4444 or VP9.

It has a picture at each moment that the source has one. Alpha is straight, not premultiplied: the colours are those
of the video itself, or white everywhere, and the mask alone tells what is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter

from icf_avs.data.local_url import local_url
from icf_avs.data.media import MediaInfo, as_shown, video_frames
from icf_avs.data.picture import Picture
from icf_avs.errors import UserError
from icf_avs.formats.webm_shape import write_pixel_shape
from icf_avs.formats.whole_file import whole_file

if TYPE_CHECKING:
    from icf_avs.segmentation import Segmentation

_FINEST = 90_000  # at least so many steps of the clock a second, for pictures at irregular times
_ROUNDING = 0.001  # seconds; containers that store milliseconds move pictures by half of one
_BT709 = 1  # in FFmpeg's numbering


@dataclass(frozen=True)
class AlphaFormat:
    """How a video with alpha is encoded."""

    container: str
    codec: str
    pix_fmt: str
    options: dict[str, str]
    plain_options: dict[str, str]  # for white pictures, on top
    metadata: dict[str, str]


PRORES = AlphaFormat("mov", "prores_ks", "yuva444p10le", {"profile": "4444", "alpha_bits": "16"}, {}, {})
VP9 = AlphaFormat(
    "webm",
    "libvpx-vp9",
    "yuva420p",
    {"deadline": "realtime", "cpu-used": "8", "crf": "18", "b": "0"},
    {"lossless": "1", "crf": "0"},  # white costs nothing, so the mask can be exact
    {"alpha_mode": "1"},  # or players do not look for it
)


def write_alpha(
    segmentation: Segmentation, path: Path, form: AlphaFormat, source: MediaInfo, pictures: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:  # fmt: skip
    """Write the mask that stands at each moment as the alpha channel of a video without sound.

    `source` gives the times and, if `pictures`, the colours; without, they are white. In ProRes alpha is the mask
    exactly, and in VP9 without `pictures`; with them it is the mask once cut at one half. progress(done, total) counts
    masks. Raises UserError if the source breaks in the middle, if `pictures` and it has not the size of the masks, or
    if the file cannot be written.
    """
    video, frames, fps = segmentation.video, segmentation.frames, segmentation.spec.fps
    if pictures and (source.width, source.height) != (video.width, video.height):
        raise UserError(
            f"{source.path}: is {source.width} x {source.height} and the masks {video.width} x {video.height}; name "
            "the video that was segmented"
        )
    rate = max(Fraction(source.frame_rate).limit_denominator(1001), Fraction(1, 1001))
    clock = 1 / (rate.numerator * Fraction(-(-_FINEST // rate.numerator)))  # so that each 1 / rate is whole
    reformatter = VideoReformatter()
    # Without "bitexact" a file gets a number by chance, and the same masks never the same file.
    muxing = {"fflags": "bitexact"}
    with whole_file(path) as new, av.open(local_url(new), "w", format=form.container, options=muxing) as container:
        options = form.options if pictures else form.options | form.plain_options
        stream = container.add_stream(form.codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, form.pix_fmt
        stream.metadata.update(form.metadata)
        context = stream.codec_context
        context.time_base, context.sample_aspect_ratio = clock, source.pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.flags |= Flags.frame_duration
        current = -1
        for start, picture, end in _shown(source, rate):
            index = min(int(start * fps + 1e-6), len(frames) - 1)
            is_new = index != current
            if is_new:
                current, mask = index, frames[index].mask
                progress(index + 1, len(frames))
            if pictures:
                painted = _painted(mask, form.pix_fmt, as_shown(source, picture, reformatter))
            elif is_new:
                painted = _painted(mask, form.pix_fmt)
            painted.time_base, painted.pts = clock, round(start / clock)
            painted.duration = max(1, round(end / clock) - painted.pts)
            container.mux(stream.encode(painted))
        container.mux(stream.encode(None))
        container.close()
        if form.container == "webm" and source.pixel_aspect != 1:
            write_pixel_shape(new, video.width, video.height, source.pixel_aspect)


def _shown(source: MediaInfo, rate: Fraction) -> Iterator[tuple[float, Picture, float]]:
    """Pictures as (from, picture, until), strictly forward in time.

    Times that are off the grid of an even rate by rounding only are put on it: editors take a file for one of varying
    rate otherwise.
    """
    held = None
    for seconds, picture in video_frames(source):
        even = float(round(seconds * rate) / rate)
        time = even if abs(seconds - even) < min(_ROUNDING, 0.25 / rate) else seconds
        if held is not None:
            if time < held[0] + 2 / _FINEST:
                continue
            yield *held, time
        held = time, picture
    if held is not None:
        yield *held, max(source.duration, held[0])


def _painted(mask: np.ndarray, pix_fmt: str, rgb: np.ndarray | int = 255) -> av.VideoFrame:
    """The mask (bool [H, W]) as the alpha channel of a picture (uint8 [H, W, 3]) or of white."""
    rgba = np.empty((*mask.shape, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = rgb, mask * np.uint8(255)
    frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pix_fmt, dst_colorspace=_BT709)
    frame.color_primaries = frame.color_trc = _BT709  # ProRes says so picture by picture
    return frame
