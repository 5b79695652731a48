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
    `push_to_hub("user/name")` (icf_avs/checkpoint/hub.py).

    Raises icf_avs.errors.UserError when there is no such checkpoint or device, it does not fit this version, or weights
    that it needs cannot be downloaded.
    """
    from icf_avs.checkpoint.hub import LoadedSegmenter
    from icf_avs.checkpoint.serialization import load_checkpoint
    from icf_avs.checkpoint.source import find_checkpoint
    from icf_avs.console import VERBOSE, note
    from icf_avs.device import find_device

    place = find_device(device)
    path, name = find_checkpoint(checkpoint)
    model = load_checkpoint(path, tagger=tagger).to(place)
    note(f"checkpoint {name}: {path}, SHA-256 {model.digest}, on {place}", VERBOSE)
    note(f"encoders: visual {model.config.visual}, audio {model.config.audio}", VERBOSE)
    return LoadedSegmenter(model, name, path)
