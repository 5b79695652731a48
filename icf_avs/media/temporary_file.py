"""A video that a program holds in memory, as the file that is read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from icf_avs.errors import UserError


@contextmanager
def temporary_file(content: bytes | BinaryIO) -> Iterator[Path]:
    """Bytes, or what a binary file holds from its position on, as a file of its name; deleted afterwards.
    A UserError meanwhile names them in place of it.
    """
    given = getattr(content, "name", None)
    name = Path(given).name if isinstance(given, str) else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name or "video")
        with path.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                shutil.copyfileobj(content, file)
        try:
            yield path
        except UserError as error:
            raise UserError(str(error).replace(str(path), name or "the bytes")) from error
