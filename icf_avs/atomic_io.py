"""Files and folders that appear complete or not at all, and what is left when a process dies before that.

What is unfinished lies in a hidden folder beside its place. Its owner holds a lock on a file in it, which the system
releases when the process dies, however that happens; whoever writes beside it next removes what has no owner any more.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where nothing is removed but by its owner
    fcntl = None

PREFIX = ".icf-"
_LOCK = "lock"


@contextmanager
def unfinished_folder(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """A new folder in `parent` to make something in; it is removed at the end. Those of dead processes go first.

    It has the usual permissions itself, but lies in one that nobody else may look into.
    """
    remove_abandoned(parent, prefix)
    hidden, lock = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)), None
    try:
        lock = _locked(hidden)
        new = hidden / "new"
        new.mkdir()
        yield new
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A path to write to; it becomes `path` only if the block ends well, with the permissions of any new file."""
    with unfinished_folder(path.parent) as folder:
        new = folder / path.name
        yield new
        os.chmod(new, stat.S_IMODE(folder.stat().st_mode) & 0o666)  # some libraries let the owner alone read
        os.replace(new, path)


def remove_abandoned(parent: Path, prefix: str = PREFIX) -> None:
    """Remove what dead processes have left unfinished in a folder."""
    with suppress(OSError):  # `parent` itself is looked at by who writes to it
        for entry in os.scandir(parent):
            if entry.name.startswith(prefix) and _is_abandoned(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)


def _locked(folder: Path) -> int:
    """Lock a new file in a folder; it gets its name when it is locked, so that nobody finds it without."""
    temporary = folder / f"{_LOCK}.new"
    lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with suppress(OSError):  # a file system without locks: the folder is removed by its owner alone
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(temporary, folder / _LOCK)
    return lock


def _is_abandoned(folder: Path) -> bool:
    if fcntl is None:
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # something else, or just being made or removed
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
