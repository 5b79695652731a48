"""overlay.mp4: the video with its masks drawn in and its own sound, H.264 and AAC, written as it is decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Condition
from typing import TypeVar

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, VideoReformatter

from icf_avs.media.audio_windows import AudioSource, audio_blocks
from icf_avs.media.container import local_url
from icf_avs.media.frame import DecodedFrame
from icf_avs.media.packets import read_packets
from icf_avs.media.video_reader import MediaInfo, Orientation, open_media, select_streams, video_frames
from icf_avs.output.class_overlay import ClassOverlay
from icf_avs.output.overlay import Overlay
from icf_avs.results import FrameMask

_CLOCK = Fraction(1, 90_000)  # fine enough for frames at irregular times
# The fastest preset, and one quantizer for all frames: to choose one for each, CRF first analyses half-size copies,
# which takes nearly as long again. 23 leaves a PSNR of 43 to 45 dB, in about the room that CRF 23 takes.
_ENCODER = {"preset": "ultrafast", "qp": "23", "a53cc": "0"}  # captions are lost where a frame is drawn on
_MAX_RATE = 30  # frames a second; faster video is thinned
_SOUND_AT_ONCE = 1.0  # seconds: frame by frame, each would push the other's encoder out of the processor's cache
_BT601, _AS_BT601 = 5, (0, 2, 6)  # matrices in FFmpeg's numbering: RGB, unknown and NTSC are taken for the first
_PROGRESS_INTERVAL = 0.25  # seconds
_AAC = {"aac_coder": "fast"}  # at this rate no worse than the default, by signal to noise, in two thirds of its time
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
Mask = TypeVar("Mask")


def write_video(
    info: MediaInfo, path: Path, interval_at: Callable[[float], int], mask_of: Callable[[int], Mask],
    progress: Callable[[int], None], overlay_of: Callable[[Mask], Overlay | ClassOverlay] = Overlay,
    sound: AudioSource | None = None, images: Iterator[tuple[float, DecodedFrame]] | None = None,
) -> None:  # fmt: skip
    """Write a video with its masks.

    interval_at(seconds) -> number of the mask that is shown then; mask_of(number) -> bool [H, W], or whatever
    overlay_of takes, which makes it ready to be drawn; progress(number) is called at each new mask. `sound` stands in
    for the video's own; `images` are those of `video_frames`, by default decoded here. Raises UserError if the video
    breaks in the middle.
    """
    with av.open(local_url(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate = min(Fraction(info.frame_rate).limit_denominator(1001), Fraction(_MAX_RATE))
        video = container.add_stream("libx264", rate=rate, options=_ENCODER)
        # Even sizes are what 4:2:0 asks for; the last row and column of an odd frame are doubled.
        video.width, video.height, video.pix_fmt = info.width + info.width % 2, info.height + info.height % 2, "yuv420p"
        encoder = video.codec_context
        # The masks have the other half. On two cores, one thread spends less on a frame than two do.
        encoder.thread_count = max(1, (os.cpu_count() or 1) // 2)
        encoder.time_base, encoder.sample_aspect_ratio = _CLOCK, info.pixel_aspect
        encoder.flags |= Flags.frame_duration  # or the encoder guesses how long the last frame lasts
        packets = _audio_packets(container, info, sound)
        upcoming, packet = next(packets)
        reformatter = VideoReformatter()
        current, overlay, sounded = -1, None, 0.0
        for time, image, until in _at_each_mask(_kept(info, images or video_frames(info)), interval_at):
            number = interval_at(time)
            if overlay is None or number != current:
                current, overlay = number, overlay_of(mask_of(number))
                progress(number)
            drawn = _drawn(image, reformatter, info, overlay, encoder)
            if not encoder.is_open:
                encoder.colorspace, encoder.color_range = drawn.colorspace, drawn.color_range
                encoder.color_trc, encoder.color_primaries = image.shown_as
            drawn.time_base, drawn.pts = _CLOCK, round(time / _CLOCK)
            drawn.duration = max(1, round(until / _CLOCK) - drawn.pts)
            container.mux(video.encode(drawn))
            if time >= sounded:  # never ahead: what is damaged there may not have been found yet
                while upcoming < time:
                    container.mux(packet)
                    upcoming, packet = next(packets)
                sounded = time + _SOUND_AT_ONCE
        container.mux(video.encode(None))
        container.mux(packet)
        for _, packet in packets:
            container.mux(packet)


def _kept(info: MediaInfo, images: Iterator[tuple[float, DecodedFrame]]) -> Iterator[tuple[float, DecodedFrame, float]]:
    """Frames as (from, frame, until), strictly forward in time, at most one in a 30th of a second."""
    # An ordinary 30 Hz video is not thinned: its time stamps may be rounded to milliseconds.
    slots = _MAX_RATE if info.frame_rate > 1.02 * _MAX_RATE else 1 / _CLOCK
    held = next(images)
    for time, frame in images:
        if int(time * slots + 1e-6) != int(held[0] * slots + 1e-6):
            yield *held, time
            held = time, frame
    yield *held, max(info.duration, held[0])


def _at_each_mask(
    passed: Iterator[tuple[float, DecodedFrame, float]], interval_at: Callable[[float], int]
) -> Iterator[tuple[float, DecodedFrame, float]]:
    """A frame that is on display for long once for each mask that falls to it, to a 30th of a second."""
    for time, frame, until in passed:
        begin = time
        for step in range(1, int((until - time) * _MAX_RATE)):
            moment = time + step / _MAX_RATE
            if interval_at(moment) != interval_at(begin):
                yield begin, frame, moment
                begin = moment
        yield begin, frame, until


def _drawn(
    image: DecodedFrame, reformatter: VideoReformatter, info: MediaInfo, overlay: Overlay | ClassOverlay,
    encoder: av.VideoCodecContext,
) -> av.VideoFrame:  # fmt: skip
    """A yuv420p frame: turned as it is shown, padded to even sizes, with the overlay on it; a new one, unless nothing
    is to be done. In the matrix and range of the video that is written, which are those of its first frame.
    """
    source = image.converted(reformatter, *info.stored_size, "yuv420p")
    if encoder.is_open and _colours(encoder) != _colours(source):
        matrix, color_range = _colours(encoder)
        source = reformatter.reformat(source, dst_colorspace=matrix, dst_color_range=color_range)
    size = encoder.width, encoder.height
    as_shown = info.orientation == Orientation() and size == (info.width, info.height) and source.colorspace
    if as_shown and overlay.is_empty:
        source.pict_type = PictureType.NONE  # the source's key frames need not be the overlay's
        return source
    drawn = av.VideoFrame(*size, "yuv420p")
    drawn.color_range, drawn.colorspace = source.color_range, source.colorspace or _BT601
    planes = []
    for old, new in zip(source.planes, drawn.planes, strict=True):
        stored = np.frombuffer(old, np.uint8).reshape(-1, old.line_size)[: old.height, : old.width]
        turned = info.orientation.apply(stored)
        rows, columns = turned.shape
        plane = np.frombuffer(new, np.uint8).reshape(new.height, new.line_size)[:, : new.width]
        plane[:rows, :columns] = turned
        plane[rows:, :columns] = turned[-1:]
        plane[:, columns:] = plane[:, columns - 1 : columns]
        planes.append(plane)
    overlay.draw_yuv420(*planes)
    return drawn


def _colours(tags: av.VideoCodecContext | av.VideoFrame) -> tuple[int, int]:
    """Matrix and range."""
    return _BT601 if tags.colorspace in _AS_BT601 else tags.colorspace, tags.color_range or ColorRange.MPEG


def _audio_packets(
    container: av.container.OutputContainer, info: MediaInfo, sound: AudioSource | None
) -> Iterator[tuple[float, av.Packet | list[av.Packet]]]:
    """Add a track with `sound`, or with the video's own: its AAC as it is, or whatever else there is as AAC. Give
    what is to be written, and from which second on; the last is for the end.

    What is copied loses nothing and costs next to nothing. It must be without holes: the sound is at the second it
    belongs to, and holes have to be filled.
    """
    if sound is None and info.audio_codec == "aac" and info.audio_channels <= 2 and info.audio_unbroken:
        with open_media(info.path, info.parts) as source:
            own = select_streams(source, info.path, info.audio_track)[1]
            if own.codec_context.extradata:  # in broadcasts each packet brings its own, which MP4 does not hold
                stream = container.add_stream_from_template(own)
                for packet in _copied(info, info.clock.applied(read_packets(source, own))):
                    begin, packet.stream = packet.pts * packet.time_base, stream
                    yield begin, packet
                yield math.inf, []
                return
    rate = info.audio_rate if info.audio_rate in _AAC_RATES else 48_000
    layout, samples = "mono" if sound is None and info.audio_channels == 1 else "stereo", 0
    stream = container.add_stream("aac", rate=rate, layout=layout, options=_AAC)
    for block in (sound or partial(audio_blocks, info))(rate, layout):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), samples
        yield samples / rate, stream.encode(frame)
        samples += block.shape[1]
    yield math.inf, stream.encode(None)


def _copied(info: MediaInfo, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Packets on the clock of the frames, but for those that are known to be damaged: not every player goes on behind
    one. One that ends before second 0 is kept to begin with: the next may need it to be decoded.
    """
    for number, packet in enumerate(packets):
        if not packet.size:  # ends the stream
            return
        begin = packet.dts if packet.pts is None else packet.pts
        packet.pts = packet.dts = begin - round(info.start / packet.time_base)
        early, cut_off = packet.pts + 2 * (packet.duration or 0) < 0, packet.is_discard and packet.pts >= 0
        if number not in info.repaired.damaged_audio and not early and not cut_off:
            yield packet


class _Stopped(Exception):
    """No more masks will come."""


class WriterThread:
    """Writes the video beside the masks, each frame as soon as its mask has come: drawing and encoding keep one core
    busy, decoding and the model another.

    As a context, runs write(frame_of, shown) in a thread: frame_of(i) waits for mask number i, shown(i) says that it
    is drawn now. The context ends only when the thread has; where masks cease to come, what it writes stays unfinished.
    """

    def __init__(self, write: Callable[[Callable[[int], FrameMask], Callable[[int], None]], None]) -> None:
        self.frames: list[FrameMask] = []
        self.drawn = 0  # masks that have been drawn, the present one counted
        self._write, self._changed, self._ended = write, Condition(), False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="video-writer")

    def __enter__(self) -> WriterThread:
        self._result = self._thread.submit(self._write, self._frame, self._shown)
        return self

    def add(self, frame: FrameMask) -> None:
        """The next mask. Raises what has made the writing fail meanwhile."""
        with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()
        if self._result.done():
            self._result.result()

    def finish(self, report: Callable[[], None]) -> None:
        """Wait for the end of the video, and call `report` now and then. Raises what made the writing fail."""
        while wait([self._result], _PROGRESS_INTERVAL).not_done:
            report()
        self._result.result()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.shutdown()

    def _frame(self, index: int) -> FrameMask:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or index < len(self.frames))
            if self._ended:
                raise _Stopped
            return self.frames[index]

    def _shown(self, index: int) -> None:
        self.drawn = index + 1
