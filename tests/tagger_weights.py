"""The weights of the tagger that the default model hears by: here already, or downloaded as for a user."""

from __future__ import annotations

import os
from pathlib import Path

from icf_avs.encoders import efficientat

FILE = efficientat.RELEASED["mn04"][1]
BESIDE = Path(__file__).parents[2] / "shared" / "weights"  # the folder beside the checkout that some machines have


def use_the_folder_beside() -> None:
    """Encoders look there, unless the user has named a folder."""
    if (BESIDE / FILE).is_file():
        os.environ.setdefault("ICF_WEIGHTS_DIR", str(BESIDE))


def published_weights() -> Path:
    """The published file. Raises UserError, which fails the test, where it can neither be found nor downloaded."""
    folder = Path(os.environ.get("ICF_WEIGHTS_DIR") or BESIDE)
    file = folder / FILE
    return file if file.is_file() else efficientat.fetch_weights()
