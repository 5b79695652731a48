"""A video that a program holds in memory, as the file that is read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def temporary_file(content: bytes | BinaryIO) -> Iterator[Path]:
    """Bytes, or what a binary file holds from its position on, as a file of its name; deleted afterwards."""
    name = getattr(content, "name", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name if isinstance(name, str) and name else "video")
        with path.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                shutil.copyfileobj(content, file)
        yield path
