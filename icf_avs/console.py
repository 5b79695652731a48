"""Notes and progress bars of commands, on standard error: more with `-v`, none with `-q`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

QUIET, NORMAL, VERBOSE = -1, 0, 1
_verbosity = NORMAL  # of this process
_LEVELS = {QUIET: logging.WARNING, NORMAL: logging.INFO, VERBOSE: logging.DEBUG}
_logger = logging.getLogger("icf_avs")


class _Stderr(logging.Handler):
    """Handler that writes to the current `sys.stderr` at the time of each record."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def set_verbosity(level: int) -> None:
    """Set QUIET, NORMAL or VERBOSE for the output of this process, which runs a command."""
    global _verbosity
    _verbosity = level
    _logger.setLevel(_LEVELS[level])
    if not _logger.handlers:
        _logger.addHandler(_Stderr())


def verbosity() -> int:
    """Return the current verbosity."""
    return _verbosity


def note(line: str, level: int = NORMAL) -> None:
    """Log a line as INFO, or as DEBUG if VERBOSE. Commands print it; in other programs their logging setup decides."""
    _logger.log(_LEVELS[level], "%s", line)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in "1 mask" and "2 masks"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table_console() -> Console:
    """Return the console for tables, on standard output. Files and pipes get width 200, so that no cell is cut."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=200)


def progress_console(quiet: bool = False, **options: Any) -> Console:
    """Return the console for progress bars. quiet: draw nothing, whatever the verbosity."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet or _verbosity < NORMAL, **options)


def track(results: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield `results` with a progress bar of `total` steps; no bar if `total` is 0."""
    from rich.progress import Progress

    with Progress(console=progress_console(), disable=not total) as bar:
        yield from bar.track(results, total, description=description)
