"""A weights file of a public release: where it is, or how it gets here once, whole and unaltered."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from shlex import quote
from urllib.error import URLError
from urllib.request import urlopen

import torch
from rich.console import Console
from rich.progress import wrap_file

from icf_avs.atomic_io import replaced_file
from icf_avs.backbones.weights import FOLDER_VARIABLE, own_folder
from icf_avs.errors import MissingWeights, UserError

_PATIENCE = 30.0  # seconds without an answer until a download is given up


def released_file(what: str, url: str, sha256: str, weights: str | Path | None = None, name: str = "") -> Path:
    """The file at the end of `url`: in `weights`, in ICF_WEIGHTS_DIR, in torch's cache, or downloaded there.

    what: its name for people. sha256: of the download, in hexadecimal. weights: the file or a folder with it. name: of
    the file here, where it is not the url's. Raises UserError when `weights` has no such file, MissingWeights when
    it is nowhere and cannot be downloaded.
    """
    name = name or url.rpartition("/")[2]
    folder = own_folder() or Path("weights")
    command = (
        f"curl -L --create-dirs -o {quote(str(folder / name))} {url} && export {FOLDER_VARIABLE}={quote(str(folder))}"
    )
    if weights is not None:
        path = Path(weights) / name if Path(weights).is_dir() else Path(weights)
        if not path.is_file():
            raise UserError(f"{path}: no such file of weights of {what}; get it with: {command}")
        return path
    if (path := local_file(url, name)) is not None:
        return path
    cached = kept_file(name)
    try:
        if offline():
            raise URLError("HF_HUB_OFFLINE is set")
        _download(what, url, sha256, cached)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        raise MissingWeights(
            f"the weights of {what} are not here and cannot be downloaded ({getattr(error, 'reason', error)}); "
            f"get them with: {command}"
        ) from error
    return cached


def offline() -> bool:
    """Whether the user wants nothing downloaded."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def local_file(url: str, name: str = "") -> Path | None:
    """The file at the end of `url` where it is on this machine already: in ICF_WEIGHTS_DIR or in torch's cache."""
    name, own = name or url.rpartition("/")[2], own_folder()
    places = [own / name] if own else []
    return next((path for path in (*places, kept_file(name)) if path.is_file()), None)


def kept_file(name: str) -> Path:
    """Where a download of this name is kept."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _download(what: str, url: str, sha256: str, path: Path) -> None:
    """Raises OSError or HTTPException as urllib does, and ValueError when something else came than was published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    with replaced_file(path) as new, urlopen(url, timeout=_PATIENCE) as answer:
        seen = hashlib.sha256()
        size = int(answer.headers.get("Content-Length") or 0)
        with (
            wrap_file(answer, size, description=f"weights of {what}", console=console, transient=True) as reader,
            new.open("wb") as file,
        ):
            while block := reader.read(1 << 16):
                file.write(block)
                seen.update(block)
        if seen.hexdigest() != sha256:
            raise ValueError("what came is not the published file, its SHA-256 differs")
