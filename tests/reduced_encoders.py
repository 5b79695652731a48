"""Small stand-ins for the encoders of full-size recipes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import normalize

from icf_avs.encoders import registry, text_encoders
from icf_avs.encoders.hf_backbones import load_backbone
from icf_avs.encoders.text_encoders import load_minilm
from icf_avs.encoders.vggish import load_vggish_audio


def use_reduced_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use networks of the published widths with one block per stage and random weights, without downloads."""
    small = {"random": True, "depths": (1, 1, 1, 1)}
    for name in ("pvt-v2-b5", "resnet-50", "swin-b"):
        monkeypatch.setitem(registry.VISUAL, name, lambda name=name, **options: load_backbone(name, **options | small))
    torch.manual_seed(0)
    heard = load_vggish_audio(32, random=True)  # frozen, so no checkpoint contains it: one network for all
    monkeypatch.setitem(registry.AUDIO, "vggish", lambda dim, **_: copy.deepcopy(heard))
    monkeypatch.setattr(text_encoders, "load_text_encoder", lambda source: load_minilm())
    vectors = normalize(torch.randn(512, 512, generator=torch.Generator().manual_seed(1)), dim=-1)
    monkeypatch.setitem(registry.TEXT, "clip", lambda names: vectors[: len(names)])
