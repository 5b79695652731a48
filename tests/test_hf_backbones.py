"""PVTv2-B5, ResNet-50 and Swin-B as pyramids: published sizes, input statistics, loading, freezing. Random weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from icf_avs import distributed
from icf_avs.encoders import hf_backbones
from icf_avs.encoders.hf_backbones import BACKBONES, load_backbone
from icf_avs.encoders.onednn_layers import TokenLinear
from icf_avs.errors import UserError

transformers = pytest.importorskip("transformers")
SHALLOW = (1, 1, 2, 1)
CLASSIFIERS = {
    "pvt-v2-b5": "PvtV2ForImageClassification",
    "resnet-50": "ResNetForImageClassification",
    "swin-b": "SwinForImageClassification",
}
every_name = pytest.mark.parametrize("name", BACKBONES)


def frames(height: int, width: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def saved(name: str, folder: Path) -> nn.Module:
    """Save a shallow classifier as on the hub: tensors with a prefix, and a classifier head."""
    family = BACKBONES[name]
    torch.manual_seed(1)
    config = getattr(transformers, f"{family.prefix}Config")(**{**family.architecture, "depths": list(SHALLOW)})
    classifier = getattr(transformers, CLASSIFIERS[name])(config)
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
@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 91), (33, 224)])
def test_level_sizes_are_rounded_up(name: str, height: int, width: int) -> None:
    encoder = load_backbone(name, random=True, depths=SHALLOW)
    levels = encoder(frames(height, width, 2))
    expected = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(encoder.channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(level.shape) for level in levels] == expected
    assert all(level.isfinite().all() for level in levels)


@every_name
def test_inputs_have_imagenet_statistics(name: str) -> None:
    encoder = load_backbone(name, random=True, depths=SHALLOW)
    seen: list[Tensor] = []
    encoder.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pictures = frames(64, 64)
    encoder(pictures)
    values = pictures.numpy().astype(np.float64) / 255
    values = (values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(seen[0].numpy(), values.transpose(0, 3, 1, 2), atol=1e-5)


@every_name
def test_features_equal_those_of_the_saved_classifier(name: str, tmp_path: Path) -> None:
    classifier = saved(name, tmp_path)
    pictures = frames(224, 224)
    normal = (pictures / 255.0 - torch.tensor(hf_backbones.MEAN)) / torch.tensor(hf_backbones.SCALE)
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
    assert not frozen(frames(64, 64))[-1].requires_grad
    trained = load_backbone(name, random=True, frozen=False, depths=SHALLOW).train()
    before = {key: value.clone() for key, value in trained.named_buffers()}
    # Stochastic depth may skip a block: switch it off.
    for module in trained.modules():
        if "DropPath" in type(module).__name__:
            module.eval()
    sum(level.square().mean() for level in trained(frames(64, 64, 2))).backward()
    assert [key for key, value in trained.named_parameters() if value.grad is None] == []
    assert trained.network.training
    assert all(torch.equal(value, before[key]) for key, value in trained.named_buffers())


@pytest.mark.parametrize("name", ["pvt-v2-b5", "swin-b"])
def test_linear_layers_by_onednn_change_nothing(name: str) -> None:
    torch.manual_seed(4)
    encoder = load_backbone(name, random=True, frozen=False, depths=SHALLOW).eval()
    linears = [module for module in encoder.modules() if isinstance(module, TokenLinear)]
    assert len(linears) > 20 and not any(type(module) is nn.Linear for module in encoder.modules())
    found = []
    for own in (False, True):
        for module in linears if own else ():
            module.forward = nn.Linear.forward.__get__(module)
        encoder.zero_grad()
        levels = encoder(frames(128, 96, 2))
        sum(level.square().mean() for level in levels).backward()
        found.append([*levels, *(parameter.grad for parameter in encoder.parameters())])
    largest = max(float(gradient.abs().max()) for gradient in found[1][4:])
    for index, (ours, theirs) in enumerate(zip(*found, strict=True)):
        # A key bias has no effect on attention: its gradient is rounding error.
        size = float(theirs.detach().abs().max()) if index < 4 else largest
        assert (ours - theirs).abs().max() < 1e-4 * size


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    saved("resnet-50", tmp_path)
    with pytest.raises(UserError, match=r"holds a model of type resnet, not pvt-v2-b5; .*hf download OpenGVLab/pvt_v2"):
        load_backbone("pvt-v2-b5", tmp_path)
    with pytest.raises(UserError, match=r"depths is \[1, 1, 2, 1\], but resnet-50 has \[3, 4, 6, 3\]"):
        load_backbone("resnet-50", tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    saved("resnet-50", tmp_path)
    tensors = tmp_path / "model.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1000])
    with pytest.raises(UserError, match=r"cannot read the weights \(.*hf download microsoft/resnet-50"):
        load_backbone("resnet-50", tmp_path, depths=SHALLOW)
    from safetensors.torch import load, save_file

    save_file({k: v for k, v in load(whole).items() if "stages.2.layers.1" not in k}, tensors, {"format": "pt"})
    with pytest.raises(UserError, match=r"18 tensors of resnet-50 are missing, as encoder.stages.2.layers.1"):
        load_backbone("resnet-50", tmp_path, depths=SHALLOW)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config.json is not a model's configuration"):
        load_backbone("resnet-50", tmp_path, depths=SHALLOW)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_pickled_tensors_load_and_pickled_code_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = saved("resnet-50", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(classifier.state_dict(), tmp_path / "pytorch_model.bin")
    level = load_backbone("resnet-50", tmp_path, depths=SHALLOW).network.embedder.embedder.convolution.weight
    assert torch.equal(level, classifier.resnet.embedder.embedder.convolution.weight)
    torch.save({"a": Code()}, tmp_path / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot read the weights \(more in it than tensors\)"):
        load_backbone("resnet-50", tmp_path, depths=SHALLOW)
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
