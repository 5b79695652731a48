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
    """Load a model ready to segment. checkpoint: name of a shipped one (default "natural", whose encoder weights are
    downloaded on first use), path of a .safetensors file or folder, or "user/name" on the Hugging Face hub. device:
    "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps". tagger: replaces the checkpoint's audio tagger,
    "efficientat-mn10" or "ast" (encoders/taggers.py). The returned Segmenter also has `save_pretrained(folder)`
    and `push_to_hub("user/name")` (icf_avs/inference/pretrained.py).

    Raises icf_avs.errors.UserError if there is no such checkpoint or device, the checkpoint does not fit this version,
    or required weights cannot be downloaded.
    """
    from icf_avs.inference import pretrained

    return pretrained.load(checkpoint, device, tagger)
