"""Frames and sound in real time: a file as it is played, or a camera and a microphone by the devices of FFmpeg."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, pairwise
from queue import Queue
from threading import Thread

import av
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from icf_avs.errors import UserError
from icf_avs.media.arrays import AVChunk
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import MediaInfo, to_rgb, video_frames

_WAITING = 32  # chunks that may wait for the model; then a device drops frames


def played(info: MediaInfo, rate: int) -> Iterator[AVChunk]:
    """A file, each frame with its sound at `rate` Hz at the moment the next frame is shown. Raises UserError as
    `video_frames` and `AudioWindows` do.
    """
    windows, reformatter, end = AudioWindows(info, rate), VideoReformatter(), 0
    frames = chain(video_frames(info), [(info.duration, None)])
    began = time.monotonic()
    for (shown, frame), (until, _) in pairwise(frames):
        image, (begin, end) = partial(to_rgb, info, frame, reformatter), (end, round(until * rate))
        chunk = AVChunk(image, windows.read(begin, end - begin), shown)
        time.sleep(max(0.0, began + until - time.monotonic()))
        yield chunk
    yield AVChunk(None, windows.read(end, rate), info.duration)


def captured(device: str, rate: int) -> Iterator[AVChunk]:
    """The frames and the sound at `rate` Hz of FORMAT:NAME, as v4l2:/dev/video0, alsa:default or avfoundation:0:0.

    Raises UserError for a device that cannot be opened or ceases.
    """
    kind, _, name = device.partition(":")
    try:
        with av.open(name, format=kind) as container:
            resampler = av.AudioResampler("fltp", None, rate)
            for frame in container.decode():
                if isinstance(frame, av.VideoFrame):
                    yield AVChunk(partial(frame.to_ndarray, format="rgb24"), None)
                else:
                    for block in resampler.resample(frame):
                        yield AVChunk(None, block.to_ndarray())
    except (FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{device}: cannot be read ({error}); name a device of FFmpeg, as v4l2:/dev/video0") from error


def read_ahead(sources: Sequence[Iterator[AVChunk]]) -> Iterator[AVChunk]:
    """What all sources give, each read in a thread of its own, in the order in which it comes."""
    waiting: Queue[AVChunk | BaseException | None] = Queue(_WAITING)

    def read(source: Iterator[AVChunk]) -> None:
        try:
            for chunk in source:
                waiting.put(chunk)
            waiting.put(None)
        except BaseException as error:  # raised where the chunks are used
            waiting.put(error)

    for source in sources:
        Thread(target=read, args=(source,), daemon=True).start()
    for _ in sources:
        while (chunk := waiting.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
