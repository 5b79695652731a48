"""The one folder in which the page keeps files: emptied by age while it runs, gone when it ends."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icf_avs.atomic_io import unfinished_folder

KEPT = 3600.0  # seconds that an upload or a result stays after it was last used
_PAUSE = 60.0


@contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder that nobody else may read, where Gradio keeps its files too. It is removed at the end."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "GRADIO_ALLOWED_PATHS")
    before = {name: os.environ.pop(name, None) for name in names}
    ended = threading.Event()
    with unfinished_folder(Path(tempfile.gettempdir()), "icf-serve-") as folder:
        store = folder.resolve()
        os.environ.update({"GRADIO_TEMP_DIR": str(store), "GRADIO_EXAMPLES_CACHE": str(store / "examples")})
        sweeper = threading.Thread(target=_sweep_until, args=(ended, store), daemon=True)
        sweeper.start()
        try:
            yield store
        finally:
            ended.set()
            sweeper.join()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def sweep(store: Path, kept: float = KEPT) -> None:
    """Remove what has not been used for so many seconds."""
    oldest = time.time() - kept
    for entry in store.iterdir():
        try:
            if entry.stat().st_mtime >= oldest:
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        except FileNotFoundError:  # gone meanwhile
            continue


def used(path: Path) -> None:
    """Note that an upload is used: each has a folder of its own."""
    if path.exists():
        os.utime(path.parent)


def _sweep_until(ended: threading.Event, store: Path) -> None:
    while not ended.wait(_PAUSE):
        sweep(store)
