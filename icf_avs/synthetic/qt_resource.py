"""Reader of Qt resource files (.rcc, binary format versions 1 to 3), entries stored raw or with zlib.

Layout (big endian): "qres", version, offsets of tree, data and names, from version 3 on overall flags. A tree record is
name offset u32, flags u16, then children count and first child (folder) or country, language and data offset (file),
from version 2 on a modification time. Source of the facts: Qt's documentation of rcc and its format versions.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from icf_avs.errors import UserError

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4
_LARGEST = 1 << 28  # bytes an entry may unpack to: no image or sound is near that
_LONGEST_PATH = 4_096


class Resources(Mapping[str, bytes]):
    """The files of one archive, path -> content. The index is read at once, a content when it is requested."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._bytes = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._index = self._read_index()
        except (struct.error, UnicodeDecodeError, IndexError) as error:
            raise self._broken("it ends early or an offset points outside of it") from error

    def __getitem__(self, name: str) -> bytes:
        flags, offset = self._index[name]
        try:
            (length,) = struct.unpack_from(">I", self._bytes, offset)
        except struct.error as error:
            raise self._broken(f"the entry {name} lies outside of it") from error
        content = self._bytes[offset + 4 : offset + 4 + length]
        if len(content) < length:
            raise self._broken(f"the entry {name} ends early")
        if flags & _ZSTD:
            raise UserError(f"{self._path}: {name} is compressed with zstd; only raw and zlib entries are read")
        if flags & _ZLIB:
            try:
                # Four bytes of unpacked length come first; they are a claim, so the true length is bounded instead.
                unpacker = zlib.decompressobj()
                content = unpacker.decompress(content[4:], _LARGEST)
            except zlib.error as error:
                raise self._broken(f"the entry {name} does not unpack") from error
            if not unpacker.eof:
                raise self._broken(f"the entry {name} ends early or is larger than {_LARGEST >> 20} MiB")
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def _broken(self, why: str) -> UserError:
        return UserError(f"{self._path} is not a sound Qt resource file: {why}; fetch the package again")

    def _read_index(self) -> dict[str, tuple[int, int]]:
        data = self._bytes
        if data[:4] != b"qres":
            raise self._broken("it does not begin with qres")
        version, tree, contents, names = struct.unpack_from(">IIII", data, 4)
        if version not in (1, 2, 3):
            raise UserError(f"{self._path} is a Qt resource file of version {version}; versions 1 to 3 are read")
        record = 14 if version == 1 else 22
        index: dict[str, tuple[int, int]] = {}
        seen = {0}
        waiting = [(0, "")]
        while waiting:
            number, folder = waiting.pop()
            at = tree + number * record
            name_at, flags = struct.unpack_from(">IH", data, at)
            path = f"{folder}/{self._name(names + name_at)}" if number else ""
            if len(path) > _LONGEST_PATH:
                raise self._broken("a path in it is too long")
            if flags & _FOLDER:
                count, first = struct.unpack_from(">II", data, at + 6)
                if count * record > len(data):
                    raise self._broken("a folder claims more entries than fit")
                if not seen.isdisjoint(range(first, first + count)):
                    raise self._broken("its folders form a loop or share entries")
                seen.update(range(first, first + count))
                waiting.extend((child, path) for child in reversed(range(first, first + count)))
            else:
                (offset,) = struct.unpack_from(">I", data, at + 10)
                index[path] = flags, contents + offset
        return index

    def _name(self, at: int) -> str:
        (length,) = struct.unpack_from(">H", self._bytes, at)
        (name,) = struct.unpack_from(f">{2 * length}s", self._bytes, at + 6)
        return name.decode("utf-16-be")


def read_qt_resource(path: Path) -> Resources:
    """Open a Qt resource file as a mapping of its paths to their bytes. Raises UserError if it is malformed."""
    return Resources(Path(path))
