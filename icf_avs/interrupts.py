"""Ctrl-C and SIGTERM as one exception, raised at once or when long work reaches a safe point to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. number: of the signal; the exit code is 128 + number."""

    def __init__(self, number: int, message: str | None = None) -> None:
        super().__init__(message or ("interrupted" if number == signal.SIGINT else "terminated"))
        self.number = int(number)


class Interruption:
    """Context in which SIGINT, SIGTERM and SIGHUP raise Interrupted, unless they are ignored (`nohup`).

    They raise at once, or inside `deferred` only at its end, while `asked` is the signal number. A second Ctrl-C raises
    at once there too. Other signals sent twice do nothing, to protect the cleanup. No effect outside the main thread,
    where signals cannot be handled.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._deferred = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer interruption while the work inside reaches a safe point to stop; the work polls `asked`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.asked:
            raise Interrupted(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.asked == number
        self.asked = self.asked or number
        if (not self._deferred and not again) or (again and number == signal.SIGINT):
            raise Interrupted(number)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Make processes started inside ignore Ctrl-C, which a terminal sends to all; this process ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
