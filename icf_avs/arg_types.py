"""Types of option values for argparse. Their errors say which values are allowed."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

_LARGEST = 10**18 - 1


def whole(least: int, most: int = _LARGEST) -> Callable[[str], int]:
    """Return an argparse type: an integer from `least` to `most`."""
    want = f"an integer of at least {least}" if most == _LARGEST else f"an integer from {least} to {most}"

    def integer(text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text[:40]!r}: want {want}")
        return int(text)

    return integer


def number(want: str, most: float, zero: bool = False) -> Callable[[str], float]:
    """Return an argparse type: a number above 0 (or from 0 on) up to `most`. want: this range in words."""

    def within(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (0 < value <= most or (zero and value == 0)):  # false for NaN as well
            raise ArgumentTypeError(f"{text!r}: want {want}")
        return value

    return within


count, positive = whole(0), whole(1)
rate = number("masks a second, above 0 and at most 60", 60)
learning_rate = number("a number above 0 and at most 1", 1)
share = number("a number from 0 to 1", 1, zero=True)
positive_number = number("a number above 0", 10**6)
probability = number("a number above 0 and below 1", 1 - 1e-9)
