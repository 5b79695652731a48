"""Decoded frames as they are to be shown: deinterlaced, and cut to the part that the container shows.

That part is PixelCrop of Matroska, clean aperture of MP4. FFmpeg reads both, and PyAV exposes neither. So the stream's
parameters are written to the header of a Matroska file in memory, and read there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import av
from av.error import FFmpegError
from av.filter import Graph

SEGMENT, TRACKS, TRACK, VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0


class Element(NamedTuple):
    """Where it is: its id begins at `head`, its size at `size_at`, its content is [start, end)."""

    key: int
    head: int
    size_at: int
    start: int
    end: int


def iter_ebml_elements(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Element]:
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


def find_ebml_path(data: bytes, *keys: int) -> list[Element]:
    """The first element of each key, each inside the one before; fewer where there is none."""
    found: list[Element] = []
    for key in keys:
        span = found[-1][3:] if found else ()
        inside = next((element for element in iter_ebml_elements(data, *span) if element.key == key), None)
        if inside is None:
            break
        found.append(inside)
    return found


_LEFT, _RIGHT, _TOP, _BOTTOM = 0x54CC, 0x54DD, 0x54BB, 0x54AA


class Crop(NamedTuple):
    """Columns and rows at the edges of a stored frame that are not shown."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def filter_of(self, width: int, height: int) -> str | None:
        """FFmpeg's filter for frames of a size; None where nothing is cut off, or nothing would be left."""
        shown = width - self.left - self.right, height - self.top - self.bottom
        if not any(self) or min(shown) < 1:
            return None
        return f"{shown[0]}:{shown[1]}:{self.left}:{self.top}:exact=1"


def container_crop(stream: av.video.stream.VideoStream) -> Crop:
    """What the container cuts off the frames of a stream; nothing in formats that cannot say so."""
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
    video = find_ebml_path(data, SEGMENT, TRACKS, TRACK, VIDEO)[-1]
    parts = {part.key: data[part.start : part.end] for part in iter_ebml_elements(data, video.start, video.end)}
    return Crop(*(int.from_bytes(parts.get(side, b""), "big") for side in (_LEFT, _RIGHT, _TOP, _BOTTOM)))


def filter_frames(frames: Iterator[av.VideoFrame], crop: Crop) -> Iterator[av.VideoFrame]:
    """Pass frames on; from the first interlaced one, a filter weaves the fields. Where frames change their size or
    format, filters are made anew.
    """
    graph, built, interlaced = None, None, False
    for frame in frames:
        interlaced |= frame.interlaced_frame
        cut = crop.filter_of(frame.width, frame.height)
        wanted = (interlaced, cut, frame.width, frame.height, frame.format.name)
        if wanted != built:
            if graph is not None:
                yield from _rest(graph)
            built = wanted
            graph = _graph(frame, interlaced, cut) if interlaced or cut else None
        if graph is None:
            yield frame
        else:
            graph.vpush(frame)
            yield from _pulled(graph)
    if graph is not None:
        yield from _rest(graph)


def _graph(frame: av.VideoFrame, interlaced: bool, cut: str | None) -> Graph:
    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    if interlaced:
        nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
    if cut:
        nodes.append(graph.add("crop", cut))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _rest(graph: Graph) -> Iterator[av.VideoFrame]:
    graph.vpush(None)
    yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return
