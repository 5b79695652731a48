"""What a command says while it works, on standard error: notes and progress bars, more with `-v`, none with `-q`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

QUIET, NORMAL, VERBOSE = -1, 0, 1
_verbosity = NORMAL  # of this process


def set_verbosity(level: int) -> None:
    """QUIET, NORMAL or VERBOSE, for all that this process says from now on."""
    global _verbosity
    _verbosity = level


def verbosity() -> int:
    """The level that is set."""
    return _verbosity


def note(line: str, level: int = NORMAL) -> None:
    """Print a line, unless fewer are wanted."""
    if _verbosity >= level:
        print(line, file=sys.stderr, flush=True)


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
