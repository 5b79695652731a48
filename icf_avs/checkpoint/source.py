"""Find a checkpoint: shipped with the package, a file, a folder, or on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from icf_avs.errors import UserError

FILE = "model.safetensors"  # name of the checkpoint in a folder or a hub repository
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_LONGEST_HEADER = 1 << 22  # bytes; that of the shipped checkpoint has 24 kB


def check_length(path: Path) -> None:
    """Raise UserError if the header of a safetensors file claims to be longer than _LONGEST_HEADER."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise UserError(
            f"{path}: not a safetensors file of icf-avs (its header claims {length} bytes, {_LONGEST_HEADER} are the "
            "most); get it again"
        )


def check_files(where: str, names: Iterable[str]) -> None:
    """Raise UserError unless the files of a folder or repository include a checkpoint; pickles are never accepted."""
    names = sorted(names)
    if FILE in names:
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        reason = f"{pickles[0]} is a pickle, which can run any code when it is opened, and is refused; ask for {FILE}"
        raise UserError(f"{where}: {reason} (`save_pretrained` writes it)")
    reason = f"has no {FILE}, so it is not a model of icf-avs; name another, or a .safetensors file in it"
    raise UserError(f"{where}: {reason}")


SHIPPED = ("natural", "stamps")
DEFAULT = "natural"  # used by every command and `icf_avs.load` if no checkpoint is given
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_checkpoint(checkpoint: str | None) -> tuple[Path, str]:
    """Return the path and the name of a checkpoint. checkpoint: name of a shipped one (None: DEFAULT), a .safetensors
    file, a folder with a model.safetensors, or user/name on the hub, which is downloaded once.

    Raises UserError for a folder or a hub name without such a file, and if the hub cannot be reached. Whether a file
    exists and is valid is checked when it is loaded.
    """
    name = str(checkpoint or DEFAULT)
    path, shipped_path = Path(name), shipped(name)
    if shipped_path.is_file():
        return shipped_path, shipped_path.stem
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if files and path / FILE not in files:
            raise UserError(f"{name}: has no {FILE}; name one of them: {', '.join(map(str, files))}")
        check_files(name, [entry.name for entry in path.iterdir()])
        return path / FILE, path.resolve().name
    if path.exists() or path.suffix in (".safetensors", *PICKLES) or not _HUB_NAME.fullmatch(name):
        return path, path.stem
    return download(name), path.name


def shipped(name: str) -> Path:
    """Return the path that a shipped checkpoint of that name would have, whether or not it exists."""
    return Path(__file__).parents[1] / "pretrained" / f"{name}.safetensors"


def download(repo: str) -> Path:
    """Return the checkpoint of `user/name` in the hub's cache, downloaded if needed. Raises UserError for an unknown or
    gated repository, one without model.safetensors, and if the hub cannot be reached.
    """
    try:
        from huggingface_hub import HfApi, errors, hf_hub_download
    except ModuleNotFoundError as error:
        reason = "no such file or folder here, and to look on the hub pip install 'icf-avs[hub]'"
        raise UserError(f"{repo}: {reason}") from error
    reasons = {
        errors.LocalEntryNotFoundError: "no such file or folder here, not in the hub's cache, and the hub cannot be "
        "reached; check the name and the network",
        errors.GatedRepoError: "closed on the hub; ask for access on its page, then `hf auth login`",
        errors.RepositoryNotFoundError: "no such file or folder here and no such model on the hub; check the name, or "
        "`hf auth login` if it is private",
    }
    try:
        return Path(hf_hub_download(repo, FILE))
    except tuple(reasons) as error:
        raise UserError(f"{repo}: {next(reasons[kind] for kind in reasons if isinstance(error, kind))}") from error
    except errors.EntryNotFoundError as error:
        check_files(repo, HfApi().list_repo_files(repo))
        raise UserError(f"{repo}: {FILE} is unavailable although it is listed; try again") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise UserError(f"{repo}: cannot be downloaded from the hub ({str(error).partition(chr(10))[0]})") from error
