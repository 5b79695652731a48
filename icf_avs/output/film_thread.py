"""The film is written beside the masks: in a thread, each picture as soon as the mask that falls to it has come.

Drawing and encoding keep one core busy, decoding and the model another; both take as long as the longer of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Condition
from types import TracebackType

from icf_avs.output.coco import FrameMask

_TOLD = 0.25  # seconds between two looks at how far it is


class _Stopped(Exception):
    """No more masks will come."""


class FilmThread:
    """As a context, runs write(frame_of, shown) in a thread: frame_of(i) waits for mask number i, shown(i) says that it
    is drawn now. The context ends only when the thread has; where masks cease to come, what it writes stays unfinished.
    """

    def __init__(self, write: Callable[[Callable[[int], FrameMask], Callable[[int], None]], None]) -> None:
        self.frames: list[FrameMask] = []
        self.drawn = 0  # masks that have been drawn, the present one counted
        self._write, self._changed, self._ended = write, Condition(), False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="film")

    def __enter__(self) -> FilmThread:
        self._film = self._thread.submit(self._write, self._frame, self._shown)
        return self

    def add(self, frame: FrameMask) -> None:
        """The next mask. Raises what has made the film fail meanwhile."""
        with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()
        if self._film.done():
            self._film.result()

    def finish(self, tell: Callable[[], None]) -> None:
        """Wait for the end of the film, and call `tell` now and then. Raises what made the film fail."""
        while wait([self._film], _TOLD).not_done:
            tell()
        self._film.result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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
