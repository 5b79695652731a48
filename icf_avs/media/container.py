"""A local file as FFmpeg opens it, also one that consists of several, one behind the other, as `cat` joins them.

FFmpeg takes what stands before a colon for a protocol, as in "take:2/a.mp4" or "pipe:1".

It goes on behind the second header of some containers (TS, MPEG, VOB) and stops at that of others. Here each part
is a range of bytes that is opened as a file of its own; several are given to FFmpeg's concat demuxer, which lets each
begin so long after the one before that repairs.py notices, and puts one recording behind the other.
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
    """A path as FFmpeg takes it for a local file, whatever is in its name."""
    return f"file:{os.path.abspath(path)}"


def check_file(path: Path) -> None:
    """Raise UserError unless a path names a file."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file inside it")
    check_no_pipe(path)


def check_no_pipe(path: Path) -> None:
    """Raise UserError for a pipe or a device: to open one may block for ever, and it is read only once."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a pipe or a device, which is read only once; save what it gives as a file first")


@contextmanager
def temporary_file(content: bytes | BinaryIO) -> Iterator[Path]:
    """Bytes, or what a binary file holds from its position on, as a file of its name; deleted afterwards.
    A UserError meanwhile names them in place of it.
    """
    given = getattr(content, "name", None)
    name = Path(given).name if isinstance(given, str) else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name or "video")
        with path.open("wb") as file:
            shutil.copyfileobj(io.BytesIO(content) if isinstance(content, bytes) else content, file)
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), name or "the bytes")) from error


Parts = tuple[tuple[int, int], ...]  # first byte of each, and the one behind its last; (0, 0) is the whole file
WHOLE: Parts = ((0, 0),)
# What files begin with, of the containers that FFmpeg does not read on by itself.
_HEADS = tuple(
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
_LONGEST_HEAD, _BLOCK = 700, 1 << 24  # bytes
_APART = 200_000  # seconds from the beginning of one part to that of the next: no file lasts longer than a day


def joined_parts(path: Path, size: int) -> tuple[Parts, tuple[int, ...]]:
    """The files that a file of so many bytes consists of, and the bytes at which others begin that are no parts of it:
    they cannot be opened, or have other streams.
    """
    begins = list(_beginnings(path))
    if len(begins) < 2:
        return WHOLE, ()
    streams = {begin: _streams(path, (begin, end)) for begin, end in pairwise([*begins, size])}
    first = streams[0]
    parts = [begin for begin in begins if first and streams[begin] == first]
    others = tuple(begin for begin in begins if begin not in parts)
    return (tuple(pairwise([*parts, size])) if len(parts) > 1 else WHOLE), others


def open_parts(path: Path, parts: Parts) -> av.container.InputContainer:
    """The parts of a file as one container. Raises as av.open does."""
    if len(parts) == 1:
        # "file:" keeps a name with a colon a name; the white list keeps a play list from opening other places.
        allowed = {"protocol_whitelist": "file" if parts == WHOLE else "file,subfile"}
        return av.open(_url(path, parts[0]), options=allowed, metadata_errors="replace")
    if "\n" in path.name:
        raise UserError(f"{path}: consists of {len(parts)} files, and its name has a line break; rename it")
    lines = ["ffconcat version 1.0"]
    for part in parts:
        quoted = _url(path, part).replace("'", r"'\''")
        lines += [f"file '{quoted}'", f"duration {_APART}"]
    script = io.BytesIO("\n".join(lines).encode("utf-8", "surrogateescape"))
    options = {"safe": "0", "protocol_whitelist": "file,subfile"}
    return av.open(script, format="concat", options=options, metadata_errors="replace")


def fix_part_timestamps(container: av.container.InputContainer, packet: av.Packet) -> av.Packet:
    """A packet without a time of decoding that FFmpeg has counted on from the part before."""
    joined = container.format.name == "concat" and None not in (packet.pts, packet.dts)
    if joined and (packet.pts - packet.dts) * packet.time_base > _APART / 2:
        packet.dts = None
    return packet


def _url(path: Path, part: tuple[int, int]) -> str:
    return local_url(path) if part == WHOLE[0] else f"subfile,,start,{part[0]},end,{part[1]},,:{local_url(path)}"


def _beginnings(path: Path) -> Iterator[int]:
    """Bytes at which a file of the kind of the first begins, 0 among them; none where no such kind is known."""
    with path.open("rb") as file:
        held, offset = file.read(_BLOCK), 0
        head = next((head for head in _HEADS if head.match(held)), None)
        while head is not None and held:
            block = file.read(_BLOCK)
            until = max(0, len(held) - _LONGEST_HEAD) if block else len(held)
            for found in head.finditer(held):
                if found.start() < until or not block:
                    until = max(until, found.end())
                    yield offset + found.start()
            held, offset = held[until:] + block, offset + until


def _streams(path: Path, part: tuple[int, int]) -> list[tuple[str, str]]:
    """Kinds and codecs of the streams of a part; none where it cannot be opened."""
    try:
        with open_parts(path, (part,)) as container:
            return [(s.type, s.codec_context.name if s.codec_context else "") for s in container.streams]
    except (FFmpegError, OSError, ValueError):
        return []
