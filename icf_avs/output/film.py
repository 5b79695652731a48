"""overlay.mp4: the video with its masks drawn in and its own sound, H.264 and AAC, written as it is decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, VideoReformatter

from icf_avs.data.audio_windows import Sound
from icf_avs.data.local_url import local_url
from icf_avs.data.media import MediaInfo, Orientation, video_frames
from icf_avs.data.picture import Picture
from icf_avs.output.class_overlay import ClassOverlay
from icf_avs.output.film_sound import film_sound
from icf_avs.output.overlay import Overlay

_CLOCK = Fraction(1, 90_000)  # fine enough for pictures at irregular times
# The fastest preset, and one quantizer for all pictures: to choose one for each, CRF first analyses half-size copies,
# which takes nearly as long again. 23 leaves a PSNR of 43 to 45 dB, in about the room that CRF 23 takes.
_ENCODER = {"preset": "ultrafast", "qp": "23", "a53cc": "0"}  # captions are lost where a picture is drawn on
_MAX_RATE = 30  # pictures a second; faster video is thinned
_SOUND_AT_ONCE = 1.0  # seconds: picture by picture, each would push the other's encoder out of the processor's cache
_BT601, _AS_BT601 = 5, (0, 2, 6)  # matrices in FFmpeg's numbering: RGB, unknown and NTSC are taken for the first
Mask = TypeVar("Mask")


def write_film(
    info: MediaInfo, path: Path, interval_at: Callable[[float], int], mask_of: Callable[[int], Mask],
    progress: Callable[[int], None], overlay_of: Callable[[Mask], Overlay | ClassOverlay] = Overlay,
    sound: Sound | None = None, pictures: Iterator[tuple[float, Picture]] | None = None,
) -> None:  # fmt: skip
    """Write a video with its masks.

    interval_at(seconds) -> number of the mask that is shown then; mask_of(number) -> bool [H, W], or whatever
    overlay_of takes, which makes it ready to be drawn; progress(number) is called at each new mask. `sound` stands in
    for the video's own; `pictures` are those of `video_frames`, by default decoded here. Raises UserError if the video
    breaks in the middle.
    """
    with av.open(local_url(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        # Even sizes are what 4:2:0 asks for; the last row and column of an odd picture are doubled.
        width, height = info.width + info.width % 2, info.height + info.height % 2
        rate = min(Fraction(info.frame_rate).limit_denominator(1001), Fraction(_MAX_RATE))
        video = container.add_stream("libx264", rate=rate, options=_ENCODER)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        # The masks have the other half. On two cores, one thread spends less on a picture than two do.
        video.codec_context.thread_count = max(1, (os.cpu_count() or 1) // 2)
        video.codec_context.time_base = _CLOCK
        video.codec_context.sample_aspect_ratio = info.pixel_aspect
        video.codec_context.flags |= Flags.frame_duration  # or the encoder guesses how long the last picture lasts
        track = film_sound(container, info, sound)
        reformatter = VideoReformatter()
        current, overlay, sounded = -1, None, 0.0
        for time, picture, until in _at_each_mask(_kept(info, pictures or video_frames(info)), interval_at):
            number = interval_at(time)
            if overlay is None or number != current:
                current, overlay = number, overlay_of(mask_of(number))
                progress(number)
            drawn = _drawn(picture, reformatter, info, overlay, video.codec_context)
            if not video.codec_context.is_open:
                video.codec_context.colorspace, video.codec_context.color_range = drawn.colorspace, drawn.color_range
                video.codec_context.color_trc, video.codec_context.color_primaries = picture.shown_as
            drawn.time_base, drawn.pts = _CLOCK, round(time / _CLOCK)
            drawn.duration = max(1, round(until / _CLOCK) - drawn.pts)
            container.mux(video.encode(drawn))
            if time >= sounded:  # never ahead: what is damaged there may not have been found yet
                track.write_until(time)
                sounded = time + _SOUND_AT_ONCE
        container.mux(video.encode(None))
        track.write_until(math.inf)


def _kept(info: MediaInfo, pictures: Iterator[tuple[float, Picture]]) -> Iterator[tuple[float, Picture, float]]:
    """Pictures as (from, picture, until), strictly forward in time, at most one in a 30th of a second."""
    # An ordinary 30 Hz video is not thinned: its time stamps may be rounded to milliseconds.
    slots = _MAX_RATE if info.frame_rate > 1.02 * _MAX_RATE else 1 / _CLOCK
    held = None
    for time, frame in pictures:
        if held is not None:
            if int(time * slots + 1e-6) == int(held[0] * slots + 1e-6):
                continue
            yield *held, time
        held = time, frame
    if held is not None:
        yield *held, max(info.duration, held[0])


def _at_each_mask(
    kept: Iterator[tuple[float, Picture, float]], interval_at: Callable[[float], int]
) -> Iterator[tuple[float, Picture, float]]:
    """A picture that is on display for long once for each mask that falls to it, to a 30th of a second."""
    for time, frame, until in kept:
        begin = time
        for step in range(1, int((until - time) * _MAX_RATE)):
            moment = time + step / _MAX_RATE
            if interval_at(moment) != interval_at(begin):
                yield begin, frame, moment
                begin = moment
        yield begin, frame, until


def _drawn(
    picture: Picture, reformatter: VideoReformatter, info: MediaInfo, overlay: Overlay | ClassOverlay,
    encoder: av.VideoCodecContext,
) -> av.VideoFrame:  # fmt: skip
    """A yuv420p picture: turned as it is shown, padded to even sizes, with the overlay on it; a new one, unless nothing
    is to be done."""
    source = _colours_of(encoder, picture.converted(reformatter, *info.stored_size, "yuv420p"), reformatter)
    shown, size = (info.width, info.height), (encoder.width, encoder.height)
    as_shown = info.orientation == Orientation() and shown == size and source.colorspace
    if as_shown and overlay.is_empty:
        source.pict_type = PictureType.NONE  # the source's key frames need not be the film's
        return source
    drawn = av.VideoFrame(*size, "yuv420p")
    drawn.color_range, drawn.colorspace = source.color_range, source.colorspace or _BT601
    planes = []
    for number, (old, new) in enumerate(zip(source.planes, drawn.planes, strict=True)):
        plane = np.frombuffer(new, np.uint8).reshape(new.height, new.line_size)[:, : new.width]
        turned = info.orientation.apply(
            np.frombuffer(old, np.uint8).reshape(-1, old.line_size)[: old.height, : old.width]
        )
        rows, columns = turned.shape
        plane[:rows, :columns] = turned
        if number == 0:
            plane[rows:, :columns] = plane[rows - 1 : rows, :columns]
            plane[:, columns:] = plane[:, columns - 1 : columns]
        planes.append(plane)
    overlay.draw_yuv420(*planes)
    return drawn


def _colours_of(encoder: av.VideoCodecContext, frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    """A yuv420p picture in the matrix and range of the film, which are those of its first picture."""

    def kind(tags: av.VideoCodecContext | av.VideoFrame) -> tuple[int, int]:
        matrix = _BT601 if tags.colorspace in _AS_BT601 else tags.colorspace
        return matrix, tags.color_range or ColorRange.MPEG

    if not encoder.is_open or kind(encoder) == kind(frame):
        return frame
    matrix, color_range = kind(encoder)
    return reformatter.reformat(frame, dst_colorspace=matrix, dst_color_range=color_range)
