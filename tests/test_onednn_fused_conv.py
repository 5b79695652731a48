"""Fused convolutions equal the separate operations, also after the weights change."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from icf_avs.encoders import onednn_layers
from icf_avs.encoders.efficientnet_lite import SameConv
from icf_avs.encoders.onednn_layers import fused_conv

GENERATOR = torch.Generator().manual_seed(0)
LAYERS = {
    "a point": lambda: SameConv(16, 32, 1),
    "every channel": lambda: SameConv(16, 16, 3, groups=16),
    "every second place": lambda: SameConv(16, 16, 5, 2, groups=16),
    "from three channels": lambda: SameConv(3, 32, 3, 2),
    "dilated": lambda: nn.Conv2d(16, 16, 3, 1, 2, 2, 16),
}
CAPABLE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def random_input(layer: nn.Conv2d, count: int = 1, size: tuple[int, int] = (24, 18)) -> torch.Tensor:
    x = 4 * torch.randn(count, layer.in_channels, *size, generator=GENERATOR)
    return x.contiguous(memory_format=torch.channels_last)


def unfused(layer: nn.Conv2d, x: torch.Tensor, clip: bool, plus: torch.Tensor | None) -> torch.Tensor:
    y = F.relu6(layer(x)) if clip else layer(x)
    return y if plus is None else y + plus


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["plain", "clipped", "added"])
@torch.inference_mode()
def test_fused_equals_separate_operations(name: str, kind: str) -> None:
    with torch.inference_mode(False):
        layer = LAYERS[name]().requires_grad_(False).to(memory_format=torch.channels_last)
    for count, size in ((1, (24, 18)), (1, (17, 31)), (2, (24, 18)), (1, (24, 18))):
        x = random_input(layer, count, size)
        plus = torch.randn_like(layer(x)) if kind == "added" else None
        before = x.clone()
        found = fused_conv(layer, x, relu6=kind == "clipped", residual=plus)
        torch.testing.assert_close(found, unfused(layer, x, kind == "clipped", plus), atol=1e-4, rtol=1e-5)
        assert torch.equal(x, before)
    assert len(onednn_layers._cached.get(layer, {})) == (
        onednn_layers._MAX_CACHED if CAPABLE else 0
    )  # after three shapes


@torch.no_grad()
def test_new_weights_and_strides_are_used() -> None:
    layer = SameConv(16, 16, 3, groups=16).requires_grad_(False)
    x = random_input(layer)
    old = fused_conv(layer, x)
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
    torch.testing.assert_close(fused_conv(layer, x), layer(x), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(fused_conv(layer, x), old)
    layer.stride = (2, 2)
    torch.testing.assert_close(fused_conv(layer, x), layer(x), atol=1e-4, rtol=1e-5)
    twin = copy.deepcopy(layer)
    twin.weight.zero_()
    assert torch.equal(fused_conv(twin, x), layer.bias[None, :, None, None].expand(1, -1, 12, 9))


@pytest.mark.parametrize("fused", [True, False])
def test_weights_changed_by_an_optimizer_are_used(fused: bool) -> None:
    """A fused optimizer does not change the version counter of a weight."""
    layer = SameConv(3, 8, 3)
    optimizer, x = torch.optim.AdamW(layer.parameters(), 0.1, fused=fused), random_input(layer)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fused_conv(layer, x, relu6=True), F.relu6(layer(x)), atol=1e-4, rtol=1e-5)
        layer(x).square().sum().backward()
        optimizer.step()


def test_gradients_equal_those_of_separate_operations() -> None:
    layer = SameConv(3, 8, 3)
    x = random_input(layer)
    fused_conv(layer, x, relu6=True).sum().backward()
    found = layer.weight.grad.clone()
    layer.weight.grad = None
    F.relu6(layer(x)).sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)


def test_exported_graphs_have_no_onednn_operators() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = SameConv(16, 8, 1).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return fused_conv(self.layer, x, relu6=True)

    one = One()
    program = torch.export.export(one, (random_input(one.layer),))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


def test_the_cache_is_freed_with_its_layer() -> None:
    layer = SameConv(16, 8, 1).requires_grad_(False)
    with torch.no_grad():
        fused_conv(layer, random_input(layer))
    before = len(onednn_layers._cached)
    assert (layer in onednn_layers._cached) == CAPABLE
    del layer
    assert len(onednn_layers._cached) == before - CAPABLE


@pytest.mark.full
def test_the_encoder_gives_the_same_without_onednn(tmp_path: Path) -> None:
    """Without AVX2 or the oneDNN operators, the public PyTorch operations are used."""
    code = (
        "import sys, torch; from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0; "
        "frames = torch.arange(64 * 64 * 3).remainder(251).view(1, 64, 64, 3).byte(); "
        "torch.save([torch.backends.cpu.get_cpu_capability(), *load_efficientnet_lite0()(frames)], sys.argv[1])"
    )
    found = []
    for name, options in (("with", {}), ("without", {"ATEN_CPU_CAPABILITY": "default"})):
        path = tmp_path / name
        subprocess.run([sys.executable, "-c", code, path], env={**os.environ, **options}, check=True)
        found.append(torch.load(path, weights_only=True))
    (_, *mine), (capability, *plain) = found
    assert capability == "DEFAULT"
    for level, other in zip(mine, plain, strict=True):
        torch.testing.assert_close(level, other, atol=1e-3, rtol=1e-3)
