"""Weights of the default model's audio tagger: found locally, or downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from icf_avs.encoders import taggers

FILE = taggers.RELEASED["mn04"][1]
BESIDE = Path(__file__).parents[2] / "shared" / "weights"  # optional folder beside the checkout


def use_the_folder_beside() -> None:
    """Let encoders use the folder beside the checkout, unless the user has named one."""
    if (BESIDE / FILE).is_file():
        os.environ.setdefault("ICF_WEIGHTS_DIR", str(BESIDE))


def published_weights() -> Path:
    """Path of the published file. Raises UserError if it can be neither found nor downloaded."""
    folder = Path(os.environ.get("ICF_WEIGHTS_DIR") or BESIDE)
    file = folder / FILE
    return file if file.is_file() else taggers.fetch_weights()
