"""Decode a video once for two readers: first the mask prediction (ahead), later the overlay writer (behind).

Frames between the two are queued. The queue is bounded: the reader ahead waits (`wait`) for the other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from threading import Condition

from icf_avs.media.frame import DecodedFrame
from icf_avs.media.video_reader import MediaInfo, video_frames

_MAX_SHARED_BYTES = 200_000_000  # bytes; if the frames of a clip take more, the video is decoded twice instead


Frames = Iterator[tuple[float, DecodedFrame]]


class FrameTee:
    """Context manager that provides the frames of `video_frames` twice, `ahead` and `behind`, each for one thread.

    seconds: duration of a clip, by which `ahead` must lead, as the masks of a clip are predicted together.
    """

    def __init__(self, info: MediaInfo, seconds: float) -> None:
        self._info, self._seconds = info, seconds
        self._queue: deque[tuple[float, DecodedFrame]] = deque()
        self._changed = Condition()
        self._ahead_is_done = self._behind_is_done = False

    def __enter__(self) -> FrameTee:
        """Open the video. Raises UserError as `video_frames` does."""
        self._source = video_frames(self._info)
        first = next(self._source)
        count = math.ceil(self._seconds * self._info.frame_rate) + 1
        self._shared = count * sum(plane.buffer_size for plane in first[1].frame.planes) <= _MAX_SHARED_BYTES
        if self._shared:
            self._frames = chain([first], self._source)
        else:
            self._source.close()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the video; both readers must have finished."""
        self._source.close()

    @contextmanager
    def ahead(self) -> Iterator[Frames]:
        """Iterate over all frames as they are decoded. After this context ends, `behind` decodes the rest itself."""
        try:
            yield self._produce() if self._shared else video_frames(self._info)
        finally:
            with self._changed:
                self._ahead_is_done = True
                self._changed.notify_all()

    @contextmanager
    def behind(self) -> Iterator[Frames]:
        """Iterate over all frames, after `ahead` has read them. After this context ends, no frames are queued."""
        try:
            yield self._consume() if self._shared else video_frames(self._info)
        finally:
            with self._changed:
                self._behind_is_done = True
                self._queue.clear()
                self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until `behind` has read all frames before that time. Called by the reader ahead, which must already have
        produced everything that `behind` needs for these frames.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._behind_is_done or not self._queue or self._queue[0][0] >= seconds)

    def _produce(self) -> Frames:
        for frame in self._frames:
            with self._changed:
                if not self._behind_is_done:
                    self._queue.append(frame)
                    self._changed.notify_all()
            yield frame

    def _consume(self) -> Frames:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ahead_is_done)
                if not self._queue:
                    break
                frame = self._queue.popleft()
                self._changed.notify_all()
            yield frame
        yield from self._frames
