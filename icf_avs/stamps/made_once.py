"""What several processes want of the cache at once is made by one of them; the others wait, and find it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from filelock import FileLock


def made_once(folder: Path) -> AbstractContextManager[object]:
    """To be held while `folder` is made; whoever has waited looks first whether it is there by now.

    Where the cache cannot be written nobody waits: what is tried next says so in its own words.
    """
    lock = folder.parent.with_name("locks") / f"{folder.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError:
        return nullcontext()
    return FileLock(lock)
