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
from typing import Protocol, TypeVar

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
    for the video's own; `frames` are those of `video_frames`, by default decoded here. Raises UserError if the video
    breaks in the middle.
    """
    with av.open(local_url(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        # Even sizes are what 4:2:0 asks for; the last row and column of an odd frame are doubled.
        width, height = info.width + info.width % 2, info.height + info.height % 2
        rate = min(Fraction(info.frame_rate).limit_denominator(1001), Fraction(_MAX_RATE))
        video = container.add_stream("libx264", rate=rate, options=_ENCODER)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        # The masks have the other half. On two cores, one thread spends less on a frame than two do.
        video.codec_context.thread_count = max(1, (os.cpu_count() or 1) // 2)
        video.codec_context.time_base = _CLOCK
        video.codec_context.sample_aspect_ratio = info.pixel_aspect
        video.codec_context.flags |= Flags.frame_duration  # or the encoder guesses how long the last frame lasts
        track = _audio_track(container, info, sound)
        reformatter = VideoReformatter()
        current, overlay, sounded = -1, None, 0.0
        for time, image, until in _at_each_mask(_kept(info, images or video_frames(info)), interval_at):
            number = interval_at(time)
            if overlay is None or number != current:
                current, overlay = number, overlay_of(mask_of(number))
                progress(number)
            drawn = _drawn(image, reformatter, info, overlay, video.codec_context)
            if not video.codec_context.is_open:
                video.codec_context.colorspace, video.codec_context.color_range = drawn.colorspace, drawn.color_range
                video.codec_context.color_trc, video.codec_context.color_primaries = image.shown_as
            drawn.time_base, drawn.pts = _CLOCK, round(time / _CLOCK)
            drawn.duration = max(1, round(until / _CLOCK) - drawn.pts)
            container.mux(video.encode(drawn))
            if time >= sounded:  # never ahead: what is damaged there may not have been found yet
                track.write_until(time)
                sounded = time + _SOUND_AT_ONCE
        container.mux(video.encode(None))
        track.write_until(math.inf)


def _kept(info: MediaInfo, images: Iterator[tuple[float, DecodedFrame]]) -> Iterator[tuple[float, DecodedFrame, float]]:
    """Frames as (from, frame, until), strictly forward in time, at most one in a 30th of a second."""
    # An ordinary 30 Hz video is not thinned: its time stamps may be rounded to milliseconds.
    slots = _MAX_RATE if info.frame_rate > 1.02 * _MAX_RATE else 1 / _CLOCK
    held = None
    for time, frame in images:
        if held is not None:
            if int(time * slots + 1e-6) == int(held[0] * slots + 1e-6):
                continue
            yield *held, time
        held = time, frame
    if held is not None:
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
    is to be done."""
    source = _colours_of(encoder, image.converted(reformatter, *info.stored_size, "yuv420p"), reformatter)
    shown, size = (info.width, info.height), (encoder.width, encoder.height)
    as_shown = info.orientation == Orientation() and shown == size and source.colorspace
    if as_shown and overlay.is_empty:
        source.pict_type = PictureType.NONE  # the source's key frames need not be the overlay's
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
    """A yuv420p frame in the matrix and range of the video that is written, which are those of its first frame."""

    def kind(tags: av.VideoCodecContext | av.VideoFrame) -> tuple[int, int]:
        matrix = _BT601 if tags.colorspace in _AS_BT601 else tags.colorspace
        return matrix, tags.color_range or ColorRange.MPEG

    if not encoder.is_open or kind(encoder) == kind(frame):
        return frame
    matrix, color_range = kind(encoder)
    return reformatter.reformat(frame, dst_colorspace=matrix, dst_color_range=color_range)


class _AudioTrack(Protocol):
    """The audio track of a video that is being written."""

    def write_until(self, time: float) -> None:
        """Write on until the sound reaches `time` seconds, or to its end."""


def _audio_track(container: av.container.OutputContainer, info: MediaInfo, sound: AudioSource | None) -> _AudioTrack:
    """Add `sound`, or the video's own: its AAC as it is, or whatever else there is as AAC.

    What is copied loses nothing and costs next to nothing. It must be without holes: the sound is at the second it
    belongs to, and holes have to be filled.
    """
    if sound is None and info.audio_codec == "aac" and info.audio_channels <= 2 and info.audio_unbroken:
        with open_media(info.path, info.parts) as source:
            own = select_streams(source, info.path, info.audio_track)[1]
            if own.codec_context.extradata:  # in broadcasts each packet brings its own, which MP4 does not hold
                return _Copied(container, info, container.add_stream_from_template(own))
    return _Encoded(container, info, sound)


class _Copied:
    """Packets as they are, on the clock of the frames, but for those that are known to be damaged: not every player
    goes on behind one. One that ends before second 0 is kept to begin with: the next may need it to be decoded.
    """

    def __init__(
        self, container: av.container.OutputContainer, info: MediaInfo, stream: av.audio.stream.AudioStream
    ) -> None:
        self._container, self._stream = container, stream
        self._packets = self._moved(info)
        self._next = next(self._packets, None)

    def _moved(self, info: MediaInfo) -> Iterator[av.Packet]:
        with open_media(
            info.path, info.parts
        ) as source:  # in here, where only what reading raises is taken for the video's fault
            own = select_streams(source, info.path, info.audio_track)[1]
            for number, packet in enumerate(info.clock.applied(read_packets(source, own))):
                if not packet.size:  # ends the stream
                    return
                if number in info.repaired.damaged_audio:
                    continue
                begin = packet.dts if packet.pts is None else packet.pts
                packet.pts = packet.dts = begin - round(info.start / packet.time_base)
                early, cut_off = packet.pts + 2 * (packet.duration or 0) < 0, packet.is_discard and packet.pts >= 0
                if not (early or cut_off):
                    packet.stream = self._stream
                    yield packet

    def write_until(self, time: float) -> None:
        while self._next is not None and self._next.pts * self._next.time_base < time:
            self._container.mux(self._next)
            self._next = next(self._packets, None)


class _Encoded:
    """The sound at the second it belongs to: holes are filled, late sound stays late."""

    def __init__(self, container: av.container.OutputContainer, info: MediaInfo, sound: AudioSource | None) -> None:
        self._container = container
        rate = info.audio_rate if info.audio_rate in _AAC_RATES else 48_000
        self._layout = "mono" if sound is None and info.audio_channels == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=rate, layout=self._layout, options=_AAC)
        self._blocks = (sound or partial(audio_blocks, info))(rate, self._layout)
        self._samples = 0

    def write_until(self, time: float) -> None:
        rate = self._stream.rate
        while self._samples < time * rate:
            block = next(self._blocks, None)
            if block is None:
                if time == math.inf:
                    self._container.mux(self._stream.encode(None))
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", self._layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), self._samples
            self._container.mux(self._stream.encode(frame))
            self._samples += block.shape[1]


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
