"""The part of the stored pictures that a container says is shown: PixelCrop of Matroska, clean aperture of MP4.

FFmpeg reads both, and PyAV hands on neither. So the stream's parameters are written to the head of a Matroska file in
memory, and read there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import av
from av.error import FFmpegError

_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_LEFT, _RIGHT, _TOP, _BOTTOM = 0x54CC, 0x54DD, 0x54BB, 0x54AA


class Crop(NamedTuple):
    """Columns and rows at the edges of a stored picture that are not shown."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def filter_of(self, width: int, height: int) -> str | None:
        """FFmpeg's filter for pictures of a size; None where nothing is cut off, or nothing would be left."""
        shown = width - self.left - self.right, height - self.top - self.bottom
        if not any(self) or min(shown) < 1:
            return None
        return f"{shown[0]}:{shown[1]}:{self.left}:{self.top}:exact=1"


def container_crop(stream: av.video.stream.VideoStream) -> Crop:
    """What the container cuts off the pictures of a stream; nothing in formats that cannot say so."""
    if not {"mov", "matroska"} & {*stream.container.format.name.split(",")}:
        return Crop()
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="matroska") as head:
            head.add_stream_from_template(stream)
            head.start_encoding()
            data = file.getvalue()
    except (FFmpegError, ValueError):  # a codec that Matroska has no name for
        return Crop()
    values = dict.fromkeys((_LEFT, _RIGHT, _TOP, _BOTTOM), 0)
    spans = [(0, len(data))]
    for level in (_SEGMENT, _TRACKS, _TRACK, _VIDEO):
        spans = [(start, end) for span in spans for key, start, end in _elements(data, *span) if key == level]
    for span in spans:
        values |= {key: int.from_bytes(data[a:b], "big") for key, a, b in _elements(data, *span) if key in values}
    return Crop(*values.values())


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Id, begin and end of the content of each EBML element."""
    while start < end:
        id_length, size_at = 9 - data[start].bit_length(), 0
        size_at = start + id_length
        size_length = 9 - data[size_at].bit_length()
        begin = size_at + size_length
        bits = 7 * size_length
        size = int.from_bytes(data[size_at:begin], "big") & ((1 << bits) - 1)
        stop = end if size == (1 << bits) - 1 else min(begin + size, end)  # all ones: not known yet
        yield int.from_bytes(data[start:size_at], "big"), begin, stop
        start = stop
