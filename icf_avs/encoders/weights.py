"""Find and download encoder weights: an explicit path, a folder of weights, a cache, a hub, or a public release.

ICF_WEIGHTS_DIR names a folder with one folder per hub model, named by the last part of its id, and the released files.
Downloads are pinned to one revision or checked by SHA-256, and are stored completely or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from shlex import quote
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import torch
from rich.progress import wrap_file
from safetensors import SafetensorError

from icf_avs.atomic_io import replaced_file
from icf_avs.console import VERBOSE, note, progress_console
from icf_avs.errors import MissingWeights, UserError

FOLDER_VARIABLE = "ICF_WEIGHTS_DIR"
TENSORS = ("model.safetensors", "pytorch_model.bin")  # the second is the fallback, read with weights_only
# Pinned commit of each hub model, so that the weights of a recipe never change. Each is also pinned in several public
# code bases, as those of CLAP and X-CLIP in the model registry of MTEB. None: not pinned yet, as no such source is
# known; then the newest revision is used.
REVISIONS: dict[str, str | None] = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "microsoft/xclip-base-patch32": "a2e27a78a2b5d802e894b8a1ef14f3a8ce490963",
    "laion/clap-htsat-unfused": "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
    "microsoft/resnet-50": "34c2154c194f829b11125337b98c8f5f9965ff19",
    "MIT/ast-finetuned-audioset-10-10-0.4593": "f826b80d28226b62986cc218e5cec390b1096902",
    "OpenGVLab/pvt_v2_b5": None,
    "microsoft/swin-base-patch4-window7-224-in22k": None,
}
# Of files that are not readable, are no weights, or are those of another network.
_LOAD_ERRORS = (
    OSError, EOFError, ValueError, LookupError, RuntimeError, AttributeError, TypeError, SafetensorError,
    UnpicklingError,
)  # fmt: skip
_DOWNLOAD_TIMEOUT = 30.0  # seconds; timeout of a download


def require_transformers(what: str) -> None:
    """Raise UserError if the library transformers, which `what` needs, is not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{what} needs the library transformers; install it with: pip install 'transformers>=5'")


def model_folder(repo: str, weights: str | Path | None = None, files: tuple[str, ...] = ("config.json",)) -> Path:
    """Return the folder with `files` and the tensors of a hub model.

    repo: hub id, as "owner/name". weights: a folder or another hub id to use instead.
    Raises UserError if the folder is missing or incomplete, or the model is not present and cannot be downloaded.
    """
    if weights is not None:
        if Path(weights).is_dir():
            return _complete(Path(weights), repo, files)
        is_hub_id = isinstance(weights, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", weights)
        if not is_hub_id or Path(weights).parent.is_dir():  # a misspelt path
            raise UserError(f"{weights}: no such folder of weights; get them with: {download_command(repo)}")
        repo = weights
    if user_folder := weights_folder():
        if (user_folder / Path(repo).name).is_dir():
            return _complete(user_folder / Path(repo).name, repo, files)
        note_missing(user_folder, f"folder {Path(repo).name}", "the hub or its cache")
    return _complete(_from_hub(repo, files), repo, files)


def download_command(repo: str) -> str:
    """Return the shell command that downloads a hub model and makes it available."""
    folder, revision = weights_folder() or Path("weights"), REVISIONS.get(repo)
    pinned = f" --revision {revision}" if revision else ""
    return f"hf download {repo}{pinned} --local-dir {quote(str(folder / Path(repo).name))} && {_export(folder)}"


def released_file(what: str, url: str, sha256: str, weights: str | Path | None = None) -> Path:
    """Return the file named by `url`: from `weights`, ICF_WEIGHTS_DIR or torch's cache, else downloaded to that cache.

    what: name for messages. sha256: of the download, in hexadecimal. weights: the file or a folder with it. Raises
    UserError if `weights` has no such file, MissingWeights if it is found nowhere and cannot be downloaded.
    """
    name, user_folder = url.rpartition("/")[2], weights_folder()
    folder = user_folder or Path("weights")
    command = f"curl -L --create-dirs -o {quote(str(folder / name))} {url} && {_export(folder)}"
    if weights is not None:
        path = Path(weights) / name if Path(weights).is_dir() else Path(weights)
        if not path.is_file():
            raise UserError(f"{path}: no such file of weights of {what}; get it with: {command}")
        return path
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if user_folder and (user_folder / name).is_file():
        return user_folder / name
    if cached.is_file():
        if user_folder:
            note_missing(user_folder, name, str(cached.parent))
        return cached
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise URLError("HF_HUB_OFFLINE is set")
        _download(what, url, sha256, cached)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        reason = f"are not here and cannot be downloaded ({getattr(error, 'reason', error)})"
        raise MissingWeights(f"the weights of {what} {reason}; get them with: {command}") from error
    return cached


def read_pretrained(architecture: Any, folder: Path, repo: str, **options: Any) -> tuple[Any, list[str]]:
    """Load a transformers model in float32 from a folder; return it and the names of missing tensors.

    Raises UserError if the files are damaged, have other shapes, or contain pickled code (which is never run).
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # hides a table of unused tensors; missing ones are returned
    logging.disable_progress_bar()
    try:
        options |= {"weights_only": True, "local_files_only": True, "output_loading_info": True}
        model, report = architecture.from_pretrained(folder, dtype=torch.float32, **options)
    except (OSError, RuntimeError, ValueError, TypeError, SafetensorError, UnpicklingError) as error:
        # torch's message recommends unsafe loading.
        line = "more in it than tensors" if isinstance(error, UnpicklingError) else _first_line(error)
        advice = f"get the right ones with: {download_command(repo)}"
        raise UserError(f"{folder}: cannot read the weights ({line}); {advice}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    return model, sorted(report["missing_keys"])


@contextmanager
def weight_loading_errors(path: Path, what: str, advice: str = "delete it and get it again") -> Iterator[None]:
    """Turn errors while a weights file is read into a UserError."""
    try:
        yield
    except _LOAD_ERRORS as error:
        raise UserError(f"{path}: not the weights of {what} ({type(error).__name__}); {advice}") from error


def weights_folder() -> Path | None:
    """Return the folder that ICF_WEIGHTS_DIR names, None if unset. Raises UserError if there is no such folder."""
    value = os.environ.get(FOLDER_VARIABLE)
    if value and not Path(value).is_dir():
        raise UserError(f"{FOLDER_VARIABLE}={value}: no such folder; name the folder with the weights, or unset it")
    return Path(value) if value else None


@cache
def note_missing(folder: Path, name: str, place: str) -> None:
    """Log once, with `-v`, that weights missing in the user's folder are read from another place."""
    note(f"{folder}: has no {name}; it is read from {place}", VERBOSE)


def read_rows(name: str) -> list[dict[str, str]]:
    """Read the rows of a CSV file in this package."""
    with resources.files(__package__).joinpath(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _export(folder: Path) -> str:
    return f"export {FOLDER_VARIABLE}={quote(str(folder))}"


def _complete(folder: Path, repo: str, files: tuple[str, ...]) -> Path:
    missing = [name for name in files if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in TENSORS):
        missing.append(TENSORS[0])
    if missing:
        raise UserError(f"{folder}: lacks {' and '.join(missing)}; get the weights with: {download_command(repo)}")
    return folder


def _from_hub(repo: str, files: tuple[str, ...]) -> Path:
    """Return the folder of a hub model in the hub's cache, at the revision in REVISIONS. Progress goes to stderr."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        for tensors in TENSORS:
            options = {"revision": REVISIONS.get(repo), "allow_patterns": [*files, tensors]}
            folder = Path(snapshot_download(repo, **options))
            if (folder / tensors).is_file():
                break
    except RepositoryNotFoundError as error:
        advice = "give another name or a local folder"
        raise UserError(f"{repo}: the hub has no such model, or it is private; {advice}") from error
    except HFValidationError as error:
        raise UserError(f"{repo}: not the name of a hub model (owner/name), nor a folder") from error
    except Exception as error:  # network errors; their classes depend on the HTTP library of the hub's client
        reason = "no answer from the hub" if isinstance(error, LocalEntryNotFoundError) else _first_line(error)
        reason = f"are not here (no such folder, nor cached) and cannot be downloaded ({reason})"
        raise UserError(f"the weights of {repo} {reason}; get them with: {download_command(repo)}") from error
    return folder


def _download(what: str, url: str, sha256: str, path: Path) -> None:
    """Download a file. Raises OSError or HTTPException as urllib does, and ValueError if the SHA-256 differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    console = progress_console()
    with replaced_file(path) as new, urlopen(url, timeout=_DOWNLOAD_TIMEOUT) as answer:
        digest, size = hashlib.sha256(), int(answer.headers.get("Content-Length") or 0)
        bar = wrap_file(answer, size, description=f"weights of {what}", console=console, transient=True)
        with bar as reader, new.open("wb") as file:
            while block := reader.read(1 << 16):
                file.write(block)
                digest.update(block)
        if digest.hexdigest() != sha256:
            raise ValueError("what came is not the published file, its SHA-256 differs")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
