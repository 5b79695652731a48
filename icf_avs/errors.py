"""Exceptions that are shown to users."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NoReturn

Fault = Callable[[str], None]  # called with the error in one part of the input; if it returns, the part is left out


class UserError(Exception):
    """An error that the user can fix: one line that says what is wrong, where, and what to do.

    The command line prints the line without a traceback and exits with code 2. In Python it is an ordinary exception
    with this text. The line may contain names from broken or hostile files, so non-printable characters (line breaks,
    escape codes) are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


class MissingWeights(UserError):
    """Encoder weights that are not on this machine and cannot be downloaded."""


def did_you_mean(word: str, known: Iterable[str], most: int = 1, similarity: float = 0.6) -> str:
    """Return a hint with the known words most similar to a wrong one, to put between its error and the advice."""
    similar = difflib.get_close_matches(word, list(known), most, similarity)
    return f"; did you mean {' or '.join(similar)}?" if similar else ";"


def refused(what: str) -> NoReturn:
    """Default `Fault`: raise UserError at the first error."""
    raise UserError(what)
