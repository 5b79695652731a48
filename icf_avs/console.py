"""What a command says while it works, on standard error: notes and progress bars, more with `-v`, none with `-q`."""

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
    """Whatever standard error is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def set_verbosity(level: int) -> None:
    """QUIET, NORMAL or VERBOSE, for all that this process, which is a command, says from now on."""
    global _verbosity
    _verbosity = level
    _logger.setLevel(_LEVELS[level])
    if not _logger.handlers:
        _logger.addHandler(_Stderr())


def verbosity() -> int:
    """The level that is set."""
    return _verbosity


def note(line: str, level: int = NORMAL) -> None:
    """Log a line, as INFO or, if VERBOSE, as DEBUG. Commands print it; in another program its logging decides."""
    _logger.log(_LEVELS[level], "%s", line)


def counted(number: int, noun: str) -> str:
    """A number and its noun, as in "1 mask" and "2 masks"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table_console() -> Console:
    """Where tables are printed, on standard output: in a file or a pipe, which has no width, no cell is cut short."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=200)


def progress_console(quiet: bool = False, **options: Any) -> Console:
    """Where progress bars are drawn. quiet: nothing is, whatever the level."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet or _verbosity < NORMAL, **options)


def track(results: Iterable[T], total: int, description: str) -> Iterator[T]:
    """The results, so many, with a progress bar as they come; none where there are none."""
    from rich.progress import Progress

    with Progress(console=progress_console(), disable=not total) as bar:
        yield from bar.track(results, total, description=description)
