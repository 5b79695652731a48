"""The reader of Qt resource files: synthetic archives of every version, damaged archives, and a real one."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.qt_resource import QtResource

FILES = {"a.txt": (0, b"raw bytes"), "ö.bin": (1, b"packed " * 100)}


def archive(version: int, files: dict[str, tuple[int, bytes]] = FILES, child: int = 2) -> bytes:
    """An archive of root/folder/FILES; `child` is the first record of the folder (1 makes a loop)."""
    names, name_at, contents = b"", {}, b""
    for name in ("folder", *files):
        name_at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    time = struct.pack(">Q", 0) if version >= 2 else b""
    tree = struct.pack(">IHII", 0, 2, 1, 1) + time
    tree += struct.pack(">IHII", name_at["folder"], 2, len(files), child) + time
    for name, (flags, content) in files.items():
        tree += struct.pack(">IHHHI", name_at[name], flags, 0, 0, len(contents)) + time
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if flags & 1 else content
        contents += struct.pack(">I", len(stored)) + stored
    head = 24 if version >= 3 else 20
    offsets = head, head + len(tree), head + len(tree) + len(contents)
    header = b"qres" + struct.pack(">IIII", version, *offsets) + (struct.pack(">I", 0) if version >= 3 else b"")
    return header + tree + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_gives_raw_and_packed_entries(tmp_path: Path, version: int) -> None:
    (tmp_path / "x.rcc").write_bytes(archive(version))
    read = QtResource(tmp_path / "x.rcc")
    assert dict(read) == {"/folder/a.txt": b"raw bytes", "/folder/ö.bin": b"packed " * 100}
    with pytest.raises(KeyError):
        read["/folder/none"]


def error_of(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "x.rcc").write_bytes(content)
    with pytest.raises(UserError) as error:
        dict(QtResource(tmp_path / "x.rcc"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_damaged_archives_give_a_one_line_error(tmp_path: Path) -> None:
    whole = archive(3)
    assert "qres" in error_of(tmp_path, b"PK" + whole)
    assert "version 9" in error_of(tmp_path, whole[:7] + b"\x09" + whole[8:])
    assert "loop" in error_of(tmp_path, archive(3, child=1))
    assert "zstd" in error_of(tmp_path, archive(3, {"a": (4, b"")}))
    at = whole.index(zlib.compress(b"packed " * 100))
    assert "does not unpack" in error_of(tmp_path, whole[:at] + b"\xff\xff" + whole[at + 2 :])
    for end in range(len(whole)):
        error_of(tmp_path, whole[:end])
    with pytest.raises(UserError, match=r"none\.rcc"):
        QtResource(tmp_path / "none.rcc")


@settings(max_examples=150, deadline=None)
@given(st.integers(4, len(archive(3)) - 1), st.integers(0, 255))
def test_a_changed_byte_raises_nothing_but_a_user_error(tmp_path_factory, at: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.rcc"
    path.write_bytes(archive(3)[:at] + bytes([value]) + archive(3)[at + 1 :])
    with contextlib.suppress(UserError):
        dict(QtResource(path))


def test_a_real_archive() -> None:
    read = QtResource(asset_packages.root(asset_packages.GCOMPRIS) / "instruments.rcc")
    sounds = [name for name in read if name.endswith(".ogg")]
    assert len(sounds) == 26 and all(read[name][:4] == b"OggS" for name in sounds)
