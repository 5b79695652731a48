"""ICF-AVS: segments, in every frame of a video, the pixels of the objects that make the sound.

import icf_avs
result = icf_avs.load().segment("my.mp4")
result.masks          # bool [n, H, W], one a second
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icf_avs.version import VERSION

if TYPE_CHECKING:
    import torch

    from icf_avs.inference.segment import Segmenter

__version__ = VERSION


def load(checkpoint: str | None = None, device: str | torch.device = "auto", tagger: str | None = None) -> Segmenter:
    """A model ready to segment: a shipped checkpoint by name (default "natural", whose encoders' weights are downloaded
    on first use), a .safetensors file or a folder by path, or "user/name" on the Hugging Face hub. device: "auto" (a
    GPU where there is one), "cpu", "cuda", "cuda:1" or "mps". tagger: audio tagger in place of the checkpoint's own,
    "efficientat-mn10" or "ast" (encoders/tagger_encoder.py). It has `save_pretrained(folder)` and
    `push_to_hub("user/name")` (icf_avs/inference/pretrained.py).

    Raises icf_avs.errors.UserError when there is no such checkpoint or device, it does not fit this version, or weights
    that it needs cannot be downloaded.
    """
    from icf_avs.inference import pretrained

    return pretrained.load(checkpoint, device, tagger)
