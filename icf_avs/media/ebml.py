"""Elements of Matroska and WebM, as far as FFmpeg's own heads of such files go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SEGMENT, TRACKS, TRACK, VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0


class Element(NamedTuple):
    """Where it is: its id begins at `head`, its size at `size_at`, its content is [start, end)."""

    key: int
    head: int
    size_at: int
    start: int
    end: int


def elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Element]:
    """Those that lie side by side in [start, end) of data, by default all of it."""
    end = len(data) if end is None else end
    while start < end:
        size_at = start + 9 - data[start].bit_length()
        begin = size_at + 9 - data[size_at].bit_length()
        bits = 7 * (begin - size_at)
        size = int.from_bytes(data[size_at:begin], "big") & ((1 << bits) - 1)
        stop = end if size == (1 << bits) - 1 else min(begin + size, end)  # all ones: not known
        yield Element(int.from_bytes(data[start:size_at], "big"), start, size_at, begin, stop)
        start = stop


def find(data: bytes, *keys: int) -> list[Element]:
    """The first element of each key, each inside the one before; fewer where there is none."""
    found: list[Element] = []
    for key in keys:
        span = found[-1][3:] if found else ()
        inside = next((element for element in elements(data, *span) if element.key == key), None)
        if inside is None:
            break
        found.append(inside)
    return found
