"""Types of option values for argparse: each says what it wants."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a count; want an integer of at least 0")
    return int(text)


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    if count(text) == 0:
        raise argparse.ArgumentTypeError("want an integer of at least 1")
    return int(text)


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: an integer from `least` to `most`."""

    def value(text: str) -> int:
        if not least <= count(text) <= most:
            raise argparse.ArgumentTypeError(f"{text}: want an integer from {least} to {most}")
        return int(text)

    return value


def rate(text: str) -> float:
    """argparse type: masks a second, in (0, 60]."""
    return _within(text, 60, "masks a second, above 0 and at most 60")


def probability(text: str) -> float:
    """argparse type: a number in (0, 1)."""
    return _within(text, 1 - 1e-9, "a number between 0 and 1")


def _within(text: str, most: float, want: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= most:  # false for NaN as well
        raise argparse.ArgumentTypeError(f"{text!r}: want {want}")
    return value
