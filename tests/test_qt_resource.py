"""The reader of Qt resource files: synthetic archives of every version, damaged archives, and a real one."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.qt_resource import QtResource

FILES = {"a.txt": (0, b"raw bytes"), "ö.bin": (1, b"packed " * 100)}


def archive(version: int, files: dict[str, tuple[int, bytes]] = FILES) -> bytes:
    """An archive of root/folder/FILES."""
    names, name_at, contents = b"", {}, b""
    for name in ("folder", *files):
        name_at[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    time = struct.pack(">Q", 0) if version >= 2 else b""
    tree = struct.pack(">IHII", 0, 2, 1, 1) + time
    tree += struct.pack(">IHII", name_at["folder"], 2, len(files), 2) + time
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
    assert dict(QtResource(tmp_path / "x.rcc")) == {"/folder/a.txt": b"raw bytes", "/folder/ö.bin": b"packed " * 100}


def test_damaged_archives_give_a_one_line_error(tmp_path: Path) -> None:
    """More in test_trust.py and test_fuzz_tables.py."""
    whole = archive(3)
    for content in (b"PK" + whole, whole[:7] + b"\x09" + whole[8:], archive(3, {"a": (4, b"")}), whole[:-1]):
        (tmp_path / "x.rcc").write_bytes(content)
        with pytest.raises(UserError) as error:
            dict(QtResource(tmp_path / "x.rcc"))
        assert "\n" not in str(error.value)


def test_a_real_archive() -> None:
    read = QtResource(asset_packages.root(asset_packages.GCOMPRIS) / "instruments.rcc")
    sounds = [name for name in read if name.endswith(".ogg")]
    assert len(sounds) == 26 and all(read[name][:4] == b"OggS" for name in sounds)
