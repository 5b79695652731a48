"""Real-time sources of frames and audio: a file at playback speed, or camera and microphone via FFmpeg devices."""

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

_QUEUE_CHUNKS = 32  # capacity of the queue in chunks; when it is full, a device drops frames


def played(info: MediaInfo, rate: int) -> Iterator[AVChunk]:
    """Play a file in real time: yield each frame with its audio at `rate` Hz when the next frame is due. Raises
    UserError as `video_frames` and `AudioWindows` do.
    """
    windows, reformatter, end = AudioWindows(info, rate), VideoReformatter(), 0
    frames = chain(video_frames(info), [(info.duration, None)])
    start_time = time.monotonic()
    for (time_shown, frame), (next_time, _) in pairwise(frames):
        image, (begin, end) = partial(to_rgb, info, frame, reformatter), (end, round(next_time * rate))
        chunk = AVChunk(image, windows.read(begin, end - begin), time_shown)
        time.sleep(max(0.0, start_time + next_time - time.monotonic()))
        yield chunk
    yield AVChunk(None, windows.read(end, rate), info.duration)


def captured(device: str, rate: int) -> Iterator[AVChunk]:
    """Capture frames and audio at `rate` Hz from FORMAT:NAME, as v4l2:/dev/video0, alsa:default or avfoundation:0:0.

    Raises UserError if the device cannot be opened or stops.
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
    """Merge the chunks of all sources in order of arrival; each source is read in a separate thread."""
    queue: Queue[AVChunk | BaseException | None] = Queue(_QUEUE_CHUNKS)

    def read(source: Iterator[AVChunk]) -> None:
        try:
            for chunk in source:
                queue.put(chunk)
            queue.put(None)
        except BaseException as error:  # re-raised by the consumer
            queue.put(error)

    for source in sources:
        Thread(target=read, args=(source,), daemon=True).start()
    for _ in sources:
        while (chunk := queue.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
