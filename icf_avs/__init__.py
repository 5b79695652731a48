"""ICF-AVS: marks, in every frame of a video, the pixels of the objects that make the sound.

import icf_avs
result = icf_avs.load().segment("my.mp4")
result.masks          # bool [n, H, W], one a second
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icf_avs.segment import Segmenter

__version__ = "0.1.0"


def load(checkpoint: str | None = None) -> Segmenter:
    """A model ready to segment: a shipped checkpoint by name (default "stamps") or a .safetensors file by path. It runs
    on an NVIDIA GPU where there is one.

    Raises icf_avs.errors.UserError when there is no such checkpoint or it does not fit this version.
    """
    from pathlib import Path

    import torch

    from icf_avs.checkpoint import load_checkpoint
    from icf_avs.segment import Segmenter

    name = checkpoint or "stamps"
    shipped = Path(__file__).parent / "checkpoints" / f"{name}.safetensors"
    path = shipped if shipped.is_file() else Path(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Segmenter(load_checkpoint(path).to(device), name=path.stem)
