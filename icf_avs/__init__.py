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
    """A model ready to segment: a shipped checkpoint by name (default "natural", whose encoders' weights are downloaded
    on first use), a .safetensors file or a folder by path, or "user/name" on the Hugging Face hub. It runs on an NVIDIA
    GPU where there is one. With huggingface_hub installed it has `save_pretrained(folder)` and
    `push_to_hub("user/name")` (icf_avs/hub.py).

    Raises icf_avs.errors.UserError when there is no such checkpoint, it does not fit this version, or weights that it
    needs cannot be downloaded.
    """
    import importlib.util

    import torch

    from icf_avs.checkpoint import find_checkpoint, load_checkpoint, read_recipe
    from icf_avs.segment import Segmenter

    path, name = find_checkpoint(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_checkpoint(path).to(device)
    if importlib.util.find_spec("huggingface_hub") is None:
        return Segmenter(model, name)
    from icf_avs.hub import HubSegmenter

    return HubSegmenter(model, name, read_recipe(path), path)
