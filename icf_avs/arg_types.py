"""Types of option values for argparse: each says what it wants."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def count(text: str) -> int:
    """argparse type: an integer of at least 0."""
    return _integer(text, 0, 10**18 - 1, "an integer of at least 0")


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    return _integer(text, 1, 10**18 - 1, "an integer of at least 1")


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: an integer from `least` to `most`."""
    return lambda text: _integer(text, least, most, f"an integer from {least} to {most}")


def _integer(text: str, least: int, most: int, want: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: want {want}")
    return int(text)


def rate(text: str) -> float:
    """argparse type: masks a second, in (0, 60]."""
    return _within(text, 60, "masks a second, above 0 and at most 60")


def learning_rate(text: str) -> float:
    """argparse type: a number in (0, 1]."""
    return _within(text, 1, "a number above 0 and at most 1")


def share(text: str) -> float:
    """argparse type: a number in [0, 1]."""
    return _within(text, 1, "a number from 0 to 1", zero=True)


def positive_number(text: str) -> float:
    """argparse type: a number above 0, at most 10^6."""
    return _within(text, 10**6, "a number above 0")


def probability(text: str) -> float:
    """argparse type: a number in (0, 1)."""
    return _within(text, 1 - 1e-9, "a number above 0 and below 1")


def _within(text: str, most: float, want: str, zero: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (0 < value <= most or (zero and value == 0)):  # false for NaN as well
        raise argparse.ArgumentTypeError(f"{text!r}: want {want}")
    return value
