"""The shape of the pixels in a WebM file: the one thing in its head that PyAV cannot have FFmpeg write."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from icf_avs.data.ebml import SEGMENT, TRACK, TRACKS, VIDEO, Element, elements, find

_VOID, _SEEK_HEAD, _SEEK, _SEEK_POSITION = 0xEC, 0x114D9B74, 0x4DBB, 0x53AC
_DISPLAY_WIDTH, _DISPLAY_HEIGHT = b"\x54\xb0", b"\x54\xba"
_HEAD = 4096  # bytes that hold it


def write_pixel_shape(path: Path, width: int, height: int, aspect: Fraction) -> None:
    """Add the size at which pictures of width x height are shown, their pixels being `aspect` times as wide as high.

    The room is taken from what FFmpeg leaves free in front of the tracks, so nothing behind them moves.
    """
    shape = aspect * width / height
    times = max(1, round(height / shape.denominator))  # whole sides near those of the pictures, their ratio exact
    added = b"".join(
        key + b"\x84" + (times * side).to_bytes(4, "big")
        for key, side in ((_DISPLAY_WIDTH, shape.numerator), (_DISPLAY_HEIGHT, shape.denominator))
    )
    with path.open("r+b") as file:
        data = bytearray(file.read(_HEAD))
        segment, tracks, track, video = find(data, SEGMENT, TRACKS, TRACK, VIDEO)
        void = find(data, SEGMENT, _VOID)[1]
        for seek in _positions(data, segment):
            at = int.from_bytes(data[seek.start : seek.end], "big") + segment.start
            if void.end <= at <= tracks.head:
                data[seek.start : seek.end] = (at - len(added) - segment.start).to_bytes(seek.end - seek.start, "big")
        for element, change in ((void, -len(added)), (tracks, len(added)), (track, len(added)), (video, len(added))):
            _resize(data, element, change)
        data[video.end : video.end] = added
        del data[void.end - len(added) : void.end]
        file.seek(0)
        file.write(data)


def _positions(data: bytearray, segment: Element) -> list[Element]:
    """Where elements of the segment begin, as its index says."""
    index = find(data, SEGMENT, _SEEK_HEAD)[1]
    entries = [seek for seek in elements(data, index.start, index.end) if seek.key == _SEEK]
    inside = [part for seek in entries for part in elements(data, seek.start, seek.end)]
    return [part for part in inside if part.key == _SEEK_POSITION]


def _resize(data: bytearray, element: Element, change: int) -> None:
    length = element.start - element.size_at
    size = element.end - element.start + change
    data[element.size_at : element.start] = (size | 1 << (7 * length)).to_bytes(length, "big")
