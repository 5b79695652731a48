"""Whether a result can be put where it is wanted: found out by trial before any work is done."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from icf_avs.errors import UserError


def check_folder(path: Path, option: str = "--out") -> None:
    """Raise UserError unless files can be written into the folder `path`, which may still have to be made."""
    _try(path, path, ".icf-", option)


def check_file(path: Path, option: str = "--out") -> None:
    """Raise UserError unless the file `path` can be written or replaced; its folder may still have to be made."""
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; name a file for {option}")
    if os.path.lexists(path) and not (os.path.isfile(path) and os.access(path, os.W_OK)):
        raise UserError(f"{path}: is not a file that may be replaced; name another {option}")
    _try(path, path.parent, f".{path.name}-", option)


def _try(path: Path, folder: Path, prefix: str, option: str) -> None:
    place = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), Path())
    if not os.path.isdir(place):
        raise UserError(f"{place}: is not a folder; name another {option}")
    try:
        with suppress(FileNotFoundError):
            os.stat(folder)  # a name that no folder can have
        with tempfile.NamedTemporaryFile(prefix=prefix, dir=place):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}); name another {option}") from error
