"""Deinterlace decoded frames and crop them as the container specifies.

The crop is PixelCrop in Matroska and clean aperture in MP4. FFmpeg reads both, but PyAV exposes neither. So the stream
parameters are written to the header of a Matroska file in memory and parsed from there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import av
from av.error import FFmpegError
from av.filter import Graph

_VIDEO_ELEMENT_PATH = 0x18538067, 0x1654AE6B, 0xAE, 0xE0  # Segment, Tracks, TrackEntry, Video; nested in this order
_CROP_ELEMENTS = 0x54CC, 0x54DD, 0x54BB, 0x54AA  # PixelCropLeft, Right, Top, Bottom


class Crop(NamedTuple):
    """Columns and rows at the edges of a stored frame that are not shown."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def filter_of(self, width: int, height: int) -> str | None:
        """Return the arguments of FFmpeg's crop filter for a frame size; None if nothing is cut or nothing is left."""
        shown = width - self.left - self.right, height - self.top - self.bottom
        if not any(self) or min(shown) < 1:
            return None
        return f"{shown[0]}:{shown[1]}:{self.left}:{self.top}:exact=1"


def container_crop(stream: av.video.stream.VideoStream) -> Crop:
    """Return the crop that the container specifies for a stream; none for formats without this field."""
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
    for key in _VIDEO_ELEMENT_PATH:
        data = dict(_ebml_elements(data))[key]
    parts = dict(_ebml_elements(data))
    return Crop(*(int.from_bytes(parts.get(side, b""), "big") for side in _CROP_ELEMENTS))


def _ebml_elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield id and content of consecutive EBML elements in `data`; an element of unknown size extends to the end."""
    offset = 0
    while offset < len(data):
        size_at = offset + 9 - data[offset].bit_length()
        begin = size_at + 9 - data[size_at].bit_length()
        size = int.from_bytes(data[size_at:begin], "big") & ((1 << 7 * (begin - size_at)) - 1)
        yield int.from_bytes(data[offset:size_at], "big"), data[begin : begin + size]
        offset = begin + size


def filter_frames(frames: Iterator[av.VideoFrame], crop: Crop) -> Iterator[av.VideoFrame]:
    """Yield frames, deinterlaced from the first interlaced frame on, and cropped. The filters are rebuilt when the size
    or format of the frames changes.
    """
    graph, built_settings, interlaced = None, None, False
    for frame in frames:
        interlaced |= frame.interlaced_frame
        crop_args = crop.filter_of(frame.width, frame.height)
        graph_settings = (interlaced, crop_args, frame.width, frame.height, frame.format.name)
        if graph_settings != built_settings:
            if graph is not None:
                yield from _filtered(graph, None)
            graph = _graph(frame, interlaced, crop_args) if interlaced or crop_args else None
            built_settings = graph_settings
        if graph is None:
            yield frame
        else:
            yield from _filtered(graph, frame)
    if graph is not None:
        yield from _filtered(graph, None)


def _graph(frame: av.VideoFrame, interlaced: bool, crop_args: str | None) -> Graph:
    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    if interlaced:
        nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
    if crop_args:
        nodes.append(graph.add("crop", crop_args))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _filtered(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Push a frame into the filter graph and yield its output; None flushes the graph."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return
