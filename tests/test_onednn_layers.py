"""oneDNN layers equal PyTorch's or float64 products, also after the weights change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.efficientnet_lite import InvertedResidual, SameConv
from icf_avs.encoders.onednn_layers import TokenLinear, fused_conv


def check(found: Tensor, expected: Tensor) -> None:
    """Error relative to the largest expected value."""
    assert found.shape == expected.shape
    assert (found.double() - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("shape", [(7, 24), (900, 24), (2, 450, 24), (2, 9, 60, 24)], ids=str)
def test_token_linear_and_gradients_equal_a_float64_product(shape: tuple[int, ...]) -> None:
    layer, x, up = TokenLinear(24, 40), torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 40)
    y = layer(x)
    y.backward(up)
    weight, bias, rows, above = (each.double() for each in (layer.weight, layer.bias, x, up))
    check(y, rows @ weight.T + bias)
    check(x.grad, above @ weight)
    check(layer.weight.grad, above.reshape(-1, 40).T @ rows.reshape(-1, 24))
    check(layer.bias.grad, above.reshape(-1, 40).sum(0))
    other = torch.randn(3, 24, 900).transpose(1, 2)  # any memory layout
    check(layer(other), other.double() @ weight.T + bias)


def random_input(layer: nn.Conv2d, count: int = 1, size: tuple[int, int] = (24, 18)) -> Tensor:
    x = 4 * torch.randn(count, layer.in_channels, *size, generator=torch.Generator().manual_seed(count + size[0]))
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_fused_convolutions_equal_float64_also_with_new_weights() -> None:
    block = InvertedResidual(SameConv(16, 32, 1), SameConv(32, 32, 3, groups=32), SameConv(32, 16, 1))
    x = random_input(block.requires_grad_(False).expand)
    for _ in range(2):
        before = x.clone()
        check(block(x), copy.deepcopy(block).double()(x.double()))
        assert torch.equal(x, before)
        block.load_state_dict({name: value + 1 for name, value in block.state_dict().items()})


def test_weights_changed_by_an_optimizer_are_used() -> None:
    """A fused optimizer does not change the version counter of a weight."""
    layer = SameConv(3, 8, 3)
    optimizer, x = torch.optim.AdamW(layer.parameters(), 0.1, fused=True), random_input(layer)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(fused_conv(layer, x, relu6=True), F.relu6(layer(x)), atol=1e-4, rtol=1e-5)
        fused_conv(layer, x).square().sum().backward()
        optimizer.step()
