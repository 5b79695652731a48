"""Reader of Qt resource files (.rcc), in which GCompris stores its images and sounds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from icf_avs.errors import UserError

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4
_LARGEST = 1 << 28  # maximum bytes of an unpacked entry, far above any image or sound
_LONGEST_PATH = 4_096


class QtResource(Mapping[str, bytes]):
    """The files of one archive, path -> content. The index is read on construction, each content on request.

    Raises UserError if the archive is malformed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._bytes = path.read_bytes()
            self._index = self._read_index()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (struct.error, UnicodeDecodeError) as error:
            raise self._broken("it ends early or an offset points outside of it") from error

    def __getitem__(self, name: str) -> bytes:
        flags, offset = self._index[name]
        if flags & _ZSTD:
            raise UserError(f"{self._path}: {name} is compressed with zstd; only raw and zlib entries are read")
        try:
            (length,) = self._unpack(">I", offset)
            (content,) = self._unpack(f">{length}s", offset + 4)
            if flags & _ZLIB:
                # The first four bytes state the unpacked length; they may be wrong, so the true length is bounded.
                unpacker = zlib.decompressobj()
                content = unpacker.decompress(content[4:], _LARGEST)
                if not unpacker.eof:
                    raise self._broken(f"the entry {name} ends early or is larger than {_LARGEST >> 20} MiB")
        except (struct.error, zlib.error) as error:
            raise self._broken(f"the entry {name} does not unpack or lies outside of it") from error
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def _broken(self, why: str) -> UserError:
        return UserError(f"{self._path} is not a sound Qt resource file: {why}; fetch the package again")

    def _unpack(self, form: str, at: int) -> tuple:
        return struct.unpack_from(form, self._bytes, at)

    def _read_index(self) -> dict[str, tuple[int, int]]:
        """Return flags and offset of each file."""
        if self._bytes[:4] != b"qres":
            raise self._broken("it does not begin with qres")
        version, tree, contents, names = self._unpack(">IIII", 4)
        if version not in (1, 2, 3):
            raise UserError(f"{self._path} is a Qt resource file of version {version}; versions 1 to 3 are read")
        record = 14 if version == 1 else 22
        index: dict[str, tuple[int, int]] = {}
        seen, waiting = {0}, [(0, "")]
        while waiting:
            number, path = waiting.pop()
            at = tree + number * record
            name_at, flags = self._unpack(">IH", at)
            if number:
                (length,) = self._unpack(">H", names + name_at)
                path += "/" + self._unpack(f">{2 * length}s", names + name_at + 6)[0].decode("utf-16-be")
            if len(path) > _LONGEST_PATH:
                raise self._broken("a path in it is too long")
            if flags & _FOLDER:
                count, first = self._unpack(">II", at + 6)
                children = range(first, first + count)
                if count * record > len(self._bytes):
                    raise self._broken("a folder claims more entries than fit")
                if not seen.isdisjoint(children):
                    raise self._broken("its folders form a loop or share entries")
                seen.update(children)
                waiting.extend((child, path) for child in reversed(children))
            else:
                index[path] = flags, contents + self._unpack(">I", at + 10)[0]
        return index
