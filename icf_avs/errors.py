"""The exceptions that are shown to users."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NoReturn

Fault = Callable[[str], None]  # takes what is wrong with one part of the input; if it returns, that part is left out


class UserError(Exception):
    """Something the user can fix: one line that says what, where and what to do.

    The command line prints it without a traceback and exits with code 2; in Python it is an ordinary
    exception whose text is that line. Names out of broken or hostile files get into such lines, so whatever
    a terminal would not print as one character (line breaks, escape codes) is shown as an escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message))


class MissingWeights(UserError):
    """Weights of an encoder that are not on this machine and cannot be downloaded."""


def did_you_mean(word: str, known: Iterable[str], most: int = 1, similarity: float = 0.6) -> str:
    """The known words that are written much like a wrong one, to go between its error and the advice."""
    similar = difflib.get_close_matches(word, list(known), most, similarity)
    return f"; did you mean {' or '.join(similar)}?" if similar else ";"


def refused(what: str) -> NoReturn:
    """The usual `Fault`: the first one ends the reading. Raises UserError."""
    raise UserError(what)
