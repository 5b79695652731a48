"""Decoded frames as they are to be shown: deinterlaced, and cut to the part that the container shows."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.filter import Graph

from icf_avs.media.crop import Crop


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
