"""overlay.mp4: the video with overlaid masks and its audio, in H.264 and AAC, encoded while the video is decoded."""

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

_CLOCK = Fraction(1, 90_000)  # time base, fine enough for frames at irregular times
# The fastest preset, and a constant quantizer: CRF chooses one per frame by analysing half-size copies, which nearly
# doubles the time. 23 gives a PSNR of 43 to 45 dB, at about the file size of CRF 23.
_ENCODER = {"preset": "ultrafast", "qp": "23", "a53cc": "0"}  # no captions: drawn frames do not have them
_MAX_RATE = 30  # frames per second; frames of faster video are dropped
_AUDIO_BATCH_SECONDS = 1.0  # seconds of audio per batch: alternating per frame would thrash the processor's cache
_BT601, _AS_BT601 = 5, (0, 2, 6)  # color matrices in FFmpeg's numbering; RGB, unknown and NTSC are treated as BT.601
_PROGRESS_INTERVAL = 0.25  # seconds
_AAC = {"aac_coder": "fast"}  # at this rate, SNR no worse than the default, in two thirds of the time
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
Mask = TypeVar("Mask")


def write_video(
    info: MediaInfo, path: Path, interval_at: Callable[[float], int], mask_of: Callable[[int], Mask],
    progress: Callable[[int], None], overlay_of: Callable[[Mask], Overlay | ClassOverlay] = Overlay,
    sound: AudioSource | None = None, images: Iterator[tuple[float, DecodedFrame]] | None = None,
) -> None:  # fmt: skip
    """Write a video with its masks.

    interval_at(seconds) -> index of the mask shown then; mask_of(index) -> bool [H, W], or any input of overlay_of,
    which prepares it for drawing; progress(index) is called at each new mask. sound: replaces the audio of the video;
    images: output of `video_frames`, decoded here by default. Raises UserError if the video breaks in the middle.
    """
    with av.open(local_url(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        rate = min(Fraction(info.frame_rate).limit_denominator(1001), Fraction(_MAX_RATE))
        video = container.add_stream("libx264", rate=rate, options=_ENCODER)
        # 4:2:0 requires even sizes; the last row and column of an odd frame are duplicated.
        video.width, video.height, video.pix_fmt = info.width + info.width % 2, info.height + info.height % 2, "yuv420p"
        encoder = video.codec_context
        # Mask prediction uses the other half. On two cores, one thread spends less time per frame than two.
        encoder.thread_count = max(1, (os.cpu_count() or 1) // 2)
        encoder.time_base, encoder.sample_aspect_ratio = _CLOCK, info.pixel_aspect
        encoder.flags |= Flags.frame_duration  # else the encoder guesses the duration of the last frame
        packets = _audio_packets(container, info, sound)
        upcoming, packet = next(packets)
        reformatter = VideoReformatter()
        current, overlay, audio_written_until = -1, None, 0.0
        for time, image, until in _at_each_mask(_limit_rate(info, images or video_frames(info)), interval_at):
            number = interval_at(time)
            if overlay is None or number != current:
                current, overlay = number, overlay_of(mask_of(number))
                progress(number)
            drawn_frame = _draw(image, reformatter, info, overlay, encoder)
            if not encoder.is_open:
                encoder.colorspace, encoder.color_range = drawn_frame.colorspace, drawn_frame.color_range
                encoder.color_trc, encoder.color_primaries = image.output_colour_tags
            drawn_frame.time_base, drawn_frame.pts = _CLOCK, round(time / _CLOCK)
            drawn_frame.duration = max(1, round(until / _CLOCK) - drawn_frame.pts)
            container.mux(video.encode(drawn_frame))
            if time >= audio_written_until:  # never ahead of the video: damage there may not be known yet
                while upcoming < time:
                    container.mux(packet)
                    upcoming, packet = next(packets)
                audio_written_until = time + _AUDIO_BATCH_SECONDS
        container.mux(video.encode(None))
        container.mux(packet)
        for _, packet in packets:
            container.mux(packet)


def _limit_rate(
    info: MediaInfo, images: Iterator[tuple[float, DecodedFrame]]
) -> Iterator[tuple[float, DecodedFrame, float]]:
    """Yield frames as (start, frame, end), with strictly increasing times, at most one per 1/30 s."""
    # No frames of ordinary 30 Hz video are dropped: its time stamps may be rounded to milliseconds.
    slots = _MAX_RATE if info.frame_rate > 1.02 * _MAX_RATE else 1 / _CLOCK
    pending = next(images)
    for time, frame in images:
        if int(time * slots + 1e-6) != int(pending[0] * slots + 1e-6):
            yield *pending, time
            pending = time, frame
    yield *pending, max(info.duration, pending[0])


def _at_each_mask(
    frames: Iterator[tuple[float, DecodedFrame, float]], interval_at: Callable[[float], int]
) -> Iterator[tuple[float, DecodedFrame, float]]:
    """Repeat a frame with a long duration for each mask that is shown during it, to an accuracy of 1/30 s."""
    for time, frame, until in frames:
        begin = time
        for step in range(1, int((until - time) * _MAX_RATE)):
            moment = time + step / _MAX_RATE
            if interval_at(moment) != interval_at(begin):
                yield begin, frame, moment
                begin = moment
        yield begin, frame, until


def _draw(
    image: DecodedFrame, reformatter: VideoReformatter, info: MediaInfo, overlay: Overlay | ClassOverlay,
    encoder: av.VideoCodecContext,
) -> av.VideoFrame:  # fmt: skip
    """Return a yuv420p frame in display orientation, padded to even sizes, with the overlay drawn; a new frame, unless
    there is nothing to do. Color matrix and range are those of the output, which are those of its first frame.
    """
    source = image.converted(reformatter, *info.stored_size, "yuv420p")
    if encoder.is_open and _matrix_and_range(encoder) != _matrix_and_range(source):
        matrix, color_range = _matrix_and_range(encoder)
        source = reformatter.reformat(source, dst_colorspace=matrix, dst_color_range=color_range)
    size = encoder.width, encoder.height
    as_shown = info.orientation == Orientation() and size == (info.width, info.height) and source.colorspace
    if as_shown and overlay.is_empty:
        source.pict_type = PictureType.NONE  # do not force the key frames of the source
        return source
    drawn = av.VideoFrame(*size, "yuv420p")
    drawn.color_range, drawn.colorspace = source.color_range, source.colorspace or _BT601
    planes = []
    for old, new in zip(source.planes, drawn.planes, strict=True):
        stored = np.frombuffer(old, np.uint8).reshape(-1, old.line_size)[: old.height, : old.width]
        oriented = info.orientation.apply(stored)
        rows, columns = oriented.shape
        plane = np.frombuffer(new, np.uint8).reshape(new.height, new.line_size)[:, : new.width]
        plane[:rows, :columns] = oriented
        plane[rows:, :columns] = oriented[-1:]
        plane[:, columns:] = plane[:, columns - 1 : columns]
        planes.append(plane)
    overlay.draw_yuv420(*planes)
    return drawn


def _matrix_and_range(tags: av.VideoCodecContext | av.VideoFrame) -> tuple[int, int]:
    """Return color matrix and range."""
    return _BT601 if tags.colorspace in _AS_BT601 else tags.colorspace, tags.color_range or ColorRange.MPEG


def _audio_packets(
    container: av.container.OutputContainer, info: MediaInfo, sound: AudioSource | None
) -> Iterator[tuple[float, av.Packet | list[av.Packet]]]:
    """Add an AAC track with `sound` or the audio of the video; yield the packets to write and their start in seconds.
    The last item is for the end of the file.

    AAC of one or two channels is copied, without loss and at nearly no cost; other audio is encoded. So is audio with
    gaps, since gaps must be filled to keep it synchronised.
    """
    if sound is None and info.audio_codec == "aac" and info.audio_channels <= 2 and info.audio_unbroken:
        with open_media(info.path, info.parts) as source:
            audio_stream = select_streams(source, info.path, info.audio_track)[1]
            # Broadcasts have it in each packet instead, which MP4 cannot store.
            if audio_stream.codec_context.extradata:
                stream = container.add_stream_from_template(audio_stream)
                for packet in _copied_packets(info, info.clock.applied(read_packets(source, audio_stream))):
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


def _copied_packets(info: MediaInfo, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Yield packets on the clock of the frames, without those known to be damaged, at which some players stop. One
    packet that ends before second 0 is kept, as the next may need it for decoding.
    """
    for number, packet in enumerate(packets):
        if not packet.size:  # end of the stream
            return
        begin = packet.dts if packet.pts is None else packet.pts
        packet.pts = packet.dts = begin - round(info.start / packet.time_base)
        early, cut_off = packet.pts + 2 * (packet.duration or 0) < 0, packet.is_discard and packet.pts >= 0
        if number not in info.repaired.damaged_audio and not early and not cut_off:
            yield packet


class _Stopped(Exception):
    """Raised in the writer thread when no more masks will come."""


class WriterThread:
    """Writes the overlay video in parallel with mask prediction, each frame as soon as its mask is available: drawing
    and encoding keep one core busy, decoding and the model another.

    As a context manager, runs write(frame_of, shown) in a thread: frame_of(i) waits for mask i, shown(i) reports that
    it is being drawn. The context waits for the thread to end; if masks stop coming, the video remains unfinished.
    """

    def __init__(self, write: Callable[[Callable[[int], FrameMask], Callable[[int], None]], None]) -> None:
        self.frames: list[FrameMask] = []
        self.drawn = 0  # number of masks drawn, including the current one
        self._write, self._changed, self._ended = write, Condition(), False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="video-writer")

    def __enter__(self) -> WriterThread:
        self._result = self._thread.submit(self._write, self._frame, self._on_drawn)
        return self

    def add(self, frame: FrameMask) -> None:
        """Add the next mask. Raises the exception of the writer thread if writing has failed."""
        with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()
        if self._result.done():
            self._result.result()

    def finish(self, report: Callable[[], None]) -> None:
        """Wait until the video is written, calling `report` regularly. Raises the exception of the writer thread."""
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

    def _on_drawn(self, index: int) -> None:
        self.drawn = index + 1
