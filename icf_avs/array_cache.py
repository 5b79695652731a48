"""The cache folder, and arrays in it: one process makes them, once; they are complete or absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from filelock import FileLock

from icf_avs.atomic_io import unfinished_folder
from icf_avs.errors import UserError


def cache_dir() -> Path:
    """Folder for everything downloaded or derived: $ICF_CACHE, else $XDG_CACHE_HOME/icf-avs, else ~/.cache/icf-avs."""
    if own := os.environ.get("ICF_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "icf-avs"


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Unless `folder` is there, let `make` fill an empty folder that takes its place; other processes wait meanwhile.

    Raises UserError where the cache cannot be written or the disk is full.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not folder.is_dir():
                with unfinished_folder(folder.parent) as new:
                    make(new)
                    os.replace(new, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}); free some space or set ICF_CACHE"
        ) from error


def save_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write FOLDER/NAME.npy for each array."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def load_arrays(folder: Path, names: Iterable[str], writable: bool = False) -> list[np.ndarray]:
    """The arrays of these names, mapped into memory."""
    return [np.load(folder / f"{name}.npy", mmap_mode="r+" if writable else "r") for name in names]


def _lock(folder: Path) -> AbstractContextManager[object]:
    """A lock outside the folder's parent; none where locks cannot be written."""
    lock = folder.parent.with_name("locks") / f"{folder.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError:
        return nullcontext()
    return FileLock(lock)
