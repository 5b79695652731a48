"""Files and folders that appear complete or not at all, removal of remains of killed processes, and the cache folder.

Unfinished output lies in a hidden folder beside its destination. Its owner holds a lock on a file in it, which the
system releases however the process ends. The next writer to the same folder removes hidden folders without an owner.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from icf_avs.errors import UserError

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ModuleNotFoundError:  # Windows: only the owner removes its folder
    fcntl = None

PREFIX = ".icf-"
Errors = tuple[type[Exception], ...]
_LOCK_NAME = "lock"


@contextmanager
def unfinished_folder(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """Create a temporary folder in `parent` and remove it at the end. First remove folders of dead processes. The
    folder has default permissions, but lies in a hidden folder that only the owner can read.
    """
    remove_stale_files(parent, prefix)
    hidden, lock = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)), None
    try:
        lock = _create_locked_file(hidden)
        new = hidden / "new"
        new.mkdir()
        yield new
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to. It becomes `path` only if the block succeeds, with default file permissions."""
    with unfinished_folder(path.parent) as folder:
        new = folder / path.name
        yield new
        os.chmod(new, stat.S_IMODE(folder.stat().st_mode) & 0o666)  # some libraries set owner-only permissions
        os.replace(new, path)


@contextmanager
def atomic_file(
    path: Path, advice: str = "free some space or name another", errors: Errors = (), flush: bool = False
) -> Iterator[Path]:
    """Like `replaced_file`, but creates the folder if needed. flush: sync to disk before the file is moved into place.

    Raises UserError with `advice` if writing fails with an OSError or one of `errors`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as new:
            yield new
            if flush:
                with new.open("rb+") as file:
                    os.fsync(file.fileno())
    except (OSError, *errors) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}); {advice}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: it holds the old text or the new one. UserError if it cannot be written."""
    with atomic_file(path) as new:
        new.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replaced_folder(folder: Path, errors: Errors = ()) -> Iterator[Path]:
    """Yield an empty hidden folder to write to. It replaces `folder` only if the block succeeds.

    Otherwise it is removed and an existing `folder` is untouched. Raises UserError if nothing can be written.
    """
    with staging_folder(folder, errors) as new:
        yield new
        put_in_place(new, lambda: folder)


@contextmanager
def staging_folder(folder: Path, errors: Errors = ()) -> Iterator[Path]:
    """Yield an empty hidden folder beside `folder`, removed at the end of the block unless `put_in_place` moved it.
    Raises UserError if nothing can be written: for an OSError or one of `errors`.
    """
    out = folder.parent
    missing_parents = [path for path in (out, *out.parents) if not path.exists()]  # innermost first
    try:
        out.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(out) as new:
            yield new
    except (OSError, *errors) as error:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; name a folder for --out") from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: cannot be written ({reason}); free some space or choose another --out") from error
    finally:
        with suppress(OSError):  # stops at the first non-empty folder
            for parent in missing_parents:
                parent.rmdir()


def put_in_place(new: Path, place: Callable[[], Path]) -> Path:
    """Rename `new` to the folder returned by place(), replacing its content. Nothing is lost if that fails.

    `place` is called again if another process has taken the name meanwhile. Both must be on one file system.
    """
    for attempt in range(100):
        folder, old = place(), new.with_name(f"old{attempt}")
        try:
            if folder.exists():
                os.rename(folder, old)
            os.rename(new, folder)
            return folder
        except OSError as error:
            if old.exists():
                with suppress(OSError):  # a newer folder has the name
                    os.rename(old, folder)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not new.exists():
                raise
    raise UserError(f"{folder}: other processes replace it again and again; choose another --out")


def check_folder(path: Path, option: str = "--out") -> None:
    """Raise UserError unless files can be written to the folder `path`, which may not exist yet."""
    _check_writable(path, path, ".icf-", option)


def check_file(path: Path, option: str = "--out") -> None:
    """Raise UserError unless the file `path` can be written or replaced. Its folder may not exist yet."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; name a file for {option}")
    if os.path.lexists(path) and not (os.path.isfile(path) and os.access(path, os.W_OK)):
        raise UserError(f"{path}: is not a file that may be replaced; name another {option}")
    _check_writable(path, path.parent, f".{path.name}-", option)


def _check_writable(path: Path, folder: Path, prefix: str, option: str) -> None:
    place = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), Path())
    if not os.path.isdir(place):
        raise UserError(f"{place}: is not a folder; name another {option}")
    try:
        with suppress(FileNotFoundError):
            os.stat(folder)  # raises for an invalid folder name
        with tempfile.NamedTemporaryFile(prefix=prefix, dir=place):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}); name another {option}") from error


def remove_stale_files(parent: Path, prefix: str = PREFIX) -> None:
    """Remove unfinished folders of dead processes."""
    with suppress(OSError):  # the writer reports problems with `parent`
        for entry in os.scandir(parent):
            if entry.name.startswith(prefix) and _is_abandoned(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)


def _create_locked_file(folder: Path) -> int:
    """Create and lock a file in a folder. It gets its final name only once locked, so nobody finds it unlocked."""
    temporary = folder / f"{_LOCK_NAME}.new"
    lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with suppress(OSError):  # no locks on this file system: only the owner removes the folder
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(temporary, folder / _LOCK_NAME)
    return lock


def _is_abandoned(folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        lock = os.open(folder / _LOCK_NAME, os.O_RDWR)
    except OSError:  # another kind of folder, or one being created or removed
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)


def cache_dir() -> Path:
    """Folder for everything downloaded or derived: $ICF_CACHE, else $XDG_CACHE_HOME/icf-avs, else ~/.cache/icf-avs."""
    if icf_cache := os.environ.get("ICF_CACHE"):
        return Path(icf_cache)
    xdg_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg_cache) if xdg_cache else Path.home() / ".cache") / "icf-avs"


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Unless `folder` exists, let `make` fill an empty folder that becomes it. Other processes wait meanwhile.

    Raises UserError if the cache cannot be written or the disk is full.
    """
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with cache_lock(folder.name):
            if not folder.is_dir():
                with unfinished_folder(folder.parent) as new:
                    make(new)
                    os.replace(new, folder)
    except OSError as error:
        message = f"cannot be written ({error.strerror or error}); free some space or set ICF_CACHE"
        raise UserError(f"{folder}: {message}") from error


def save_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write FOLDER/NAME.npy for each array."""
    import numpy as np  # here, so that `icf --help` is fast

    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def load_arrays(folder: Path, names: Iterable[str], writable: bool = False) -> list[np.ndarray]:
    """Load the arrays of these names, memory-mapped."""
    import numpy as np

    return [np.load(folder / f"{name}.npy", mmap_mode="r+" if writable else "r") for name in names]


def cache_lock(name: str) -> AbstractContextManager[object]:
    """Return a lock that processes with the same cache folder share, or no lock if lock files cannot be written."""
    from filelock import FileLock  # here, so that `icf --help` is fast

    lock = cache_dir() / "locks" / f"{name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError:
        return nullcontext()
    return FileLock(lock)
