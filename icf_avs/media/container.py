"""Open local files with FFmpeg, including files that are several concatenated files, as `cat` joins them.

FFmpeg takes the text before a colon as a protocol, as in "take:2/a.mp4" or "pipe:1"; `local_url` prevents that.

In some containers (TS, MPEG, VOB) FFmpeg continues after a second header; in others it stops there. Here each part is a
byte range that is opened as a separate file. Several parts go through FFmpeg's concat demuxer with a start offset so
large that repairs.py detects it as a jump and places the recordings one after the other.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
from av.error import FFmpegError

from icf_avs.errors import UserError


def local_url(path: str | os.PathLike[str]) -> str:
    """Return a URL that FFmpeg opens as a local file, whatever characters the path has."""
    return f"file:{os.path.abspath(path)}"


def check_file(path: Path) -> None:
    """Raise UserError unless a path names a file."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file inside it")
    check_no_pipe(path)


def check_no_pipe(path: Path) -> None:
    """Raise UserError for a pipe or a device: opening it may block forever, and it can be read only once."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a pipe or a device, which is read only once; save what it gives as a file first")


@contextmanager
def temporary_file(content: bytes | BinaryIO) -> Iterator[Path]:
    """Write bytes, or the rest of a binary file, to a temporary file of the same name; deleted on exit.
    A UserError raised inside names the original instead of the temporary path.
    """
    file_name = getattr(content, "name", None)
    name = Path(file_name).name if isinstance(file_name, str) else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name or "video")
        with path.open("wb") as file:
            shutil.copyfileobj(io.BytesIO(content) if isinstance(content, bytes) else content, file)
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), name or "the bytes")) from error


Parts = tuple[tuple[int, int], ...]  # byte range [begin, end) of each part; (0, 0) is the whole file
WHOLE: Parts = ((0, 0),)
# File signatures of the containers in which FFmpeg stops at a second header.
_SIGNATURES = tuple(
    re.compile(head, re.DOTALL)
    for head in (
        rb"\0\0[\0-\x0f].ftyp[ -~]{4}",  # MP4, MOV, 3GP
        rb"\x1a\x45\xdf\xa3.{1,60}?(?:matroska|webm)",
        rb"FLV\x01[\0\x01\x04\x05]\0\0\0\x09\0\0\0\0",
        rb"RIFF....AVI LIST",
        re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),  # ASF, WMV
        re.escape(bytes.fromhex("b7d800203749da11a64e0007e95ead8d")),  # WTV
        rb"nut/multimedia container\0",
        rb"OggS\0\x02.{23,600}?OggS\0[\0\x01]",  # the first pages of its streams
        rb"\x06\x0e\+\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02",  # MXF
    )
)
_MAX_SIGNATURE_BYTES, _BLOCK = 700, 1 << 24  # bytes
_PART_SPACING = 200_000  # seconds between the starts of parts, more than the 24 hours that a file may last


def joined_parts(path: Path, size: int) -> tuple[Parts, tuple[int, ...]]:
    """Find the concatenated files in a file of `size` bytes. Return their byte ranges, and the offsets of files that
    are not used because they cannot be opened or have different streams.
    """
    begins = list(_beginnings(path))
    if len(begins) < 2:
        return WHOLE, ()
    streams = {begin: _streams(path, (begin, end)) for begin, end in pairwise([*begins, size])}
    first = streams[0]
    parts = [begin for begin in begins if first and streams[begin] == first]
    unused_offsets = tuple(begin for begin in begins if begin not in parts)
    return (tuple(pairwise([*parts, size])) if len(parts) > 1 else WHOLE), unused_offsets


def open_parts(path: Path, parts: Parts) -> av.container.InputContainer:
    """Open parts of a file as one container. Raises as av.open does."""
    if len(parts) == 1:
        # The whitelist prevents playlists from opening other locations.
        allowed = {"protocol_whitelist": "file" if parts == WHOLE else "file,subfile"}
        return av.open(_url(path, parts[0]), options=allowed, metadata_errors="replace")
    if "\n" in path.name:
        raise UserError(f"{path}: consists of {len(parts)} files, and its name has a line break; rename it")
    lines = ["ffconcat version 1.0"]
    for part in parts:
        quoted = _url(path, part).replace("'", r"'\''")
        lines += [f"file '{quoted}'", f"duration {_PART_SPACING}"]
    script = io.BytesIO("\n".join(lines).encode("utf-8", "surrogateescape"))
    options = {"safe": "0", "protocol_whitelist": "file,subfile"}
    return av.open(script, format="concat", options=options, metadata_errors="replace")


def fix_part_timestamps(container: av.container.InputContainer, packet: av.Packet) -> av.Packet:
    """Remove a decoding time stamp that FFmpeg has extrapolated from the previous part; return the packet."""
    joined = container.format.name == "concat" and None not in (packet.pts, packet.dts)
    if joined and (packet.pts - packet.dts) * packet.time_base > _PART_SPACING / 2:
        packet.dts = None
    return packet


def _url(path: Path, part: tuple[int, int]) -> str:
    return local_url(path) if part == WHOLE[0] else f"subfile,,start,{part[0]},end,{part[1]},,:{local_url(path)}"


def _beginnings(path: Path) -> Iterator[int]:
    """Yield offsets where a file of the same format as the first begins, including 0; none for other formats."""
    with path.open("rb") as file:
        buffer, offset = file.read(_BLOCK), 0
        signature = next((signature for signature in _SIGNATURES if signature.match(buffer)), None)
        while signature is not None and buffer:
            block = file.read(_BLOCK)
            until = max(0, len(buffer) - _MAX_SIGNATURE_BYTES) if block else len(buffer)
            for match in signature.finditer(buffer):
                if match.start() < until or not block:
                    until = max(until, match.end())
                    yield offset + match.start()
            buffer, offset = buffer[until:] + block, offset + until


def _streams(path: Path, part: tuple[int, int]) -> list[tuple[str, str]]:
    """Return types and codecs of the streams of a part; empty if it cannot be opened."""
    try:
        with open_parts(path, (part,)) as container:
            return [(s.type, s.codec_context.name if s.codec_context else "") for s in container.streams]
    except (FFmpegError, OSError, ValueError):
        return []
