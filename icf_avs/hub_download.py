"""One checkpoint from the Hugging Face hub. Needs huggingface_hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from icf_avs.checkpoint_header import FILE, check_files
from icf_avs.errors import UserError


def download(repo: str, **options: Any) -> Path:
    """The checkpoint of `user/name` in the hub's cache, downloaded where it is not there.

    options: of hf_hub_download (revision, cache_dir, ...). Raises UserError for an unknown or closed repository, one
    without model.safetensors, and when the hub cannot be reached.
    """
    try:
        return Path(hf_hub_download(repo, FILE, **options))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{repo}: no such file or folder here, not in the hub's cache, and the hub cannot be reached; "
            "check the name and the network"
        ) from error
    except GatedRepoError as error:
        raise UserError(f"{repo}: closed on the hub; ask for access on its page, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{repo}: no such file or folder here and no such model on the hub; check the name, "
            "or `hf auth login` if it is private"
        ) from error
    except EntryNotFoundError as error:
        check_files(repo, HfApi().list_repo_files(repo, revision=options.get("revision"), token=options.get("token")))
        raise UserError(f"{repo}: {FILE} cannot be had at this revision; name another") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{repo}: not to be had from the hub ({str(error).partition(chr(10))[0]})") from error
