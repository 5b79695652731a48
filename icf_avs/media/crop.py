"""The part of the stored pictures that a container says is shown: PixelCrop of Matroska, clean aperture of MP4.

FFmpeg reads both, and PyAV hands on neither. So the stream's parameters are written to the head of a Matroska file in
memory, and read there.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import av
from av.error import FFmpegError

from icf_avs.media.ebml import SEGMENT, TRACK, TRACKS, VIDEO, elements, find

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
    video = find(data, SEGMENT, TRACKS, TRACK, VIDEO)[-1]
    parts = {part.key: data[part.start : part.end] for part in elements(data, video.start, video.end)}
    return Crop(*(int.from_bytes(parts.get(side, b""), "big") for side in (_LEFT, _RIGHT, _TOP, _BOTTOM)))
