"""oneDNN linear layers: forward and backward against float64 products; all else is as in nn.Linear."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from icf_avs.encoders.onednn_layers import RowLinear, TokenLinear, with_token_linears


def worst(found: Tensor, expected: np.ndarray) -> float:
    """Largest absolute error relative to the largest expected value."""
    return float(np.abs(found.detach().double().numpy() - expected).max() / np.abs(expected).max())


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """PyTorch uses a different kernel for each."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (130, 24), (900, 24), (2, 450, 24), (2, 9, 60, 24)], ids=str)
def test_token_linear_and_gradients_equal_a_float64_product(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    layer = TokenLinear(24, 40, bias)
    x, up = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 40)
    y = layer(x)
    y.backward(up)
    assert y.shape == up.shape and x.grad.shape == x.shape

    weight, rows = layer.weight.detach().double().numpy(), x.detach().double().numpy()
    above = up.double().numpy()
    assert worst(y, rows @ weight.T + (layer.bias.detach().double().numpy() if bias else 0)) < 1e-5
    assert worst(x.grad, above @ weight) < 1e-5
    assert worst(layer.weight.grad, above.reshape(-1, 40).T @ rows.reshape(-1, 24)) < 1e-5
    if bias:
        assert worst(layer.bias.grad, above.reshape(-1, 40).sum(0)) < 1e-5


def test_token_linear_accepts_any_memory_layout() -> None:
    torch.manual_seed(2)
    layer, x = TokenLinear(8, 16), torch.randn(3, 8, 900).transpose(1, 2)
    expected = x.double().numpy() @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    assert worst(layer(x), expected) < 1e-5


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rows", [1, 5, 60])
def test_row_linear_equals_a_float64_product(rows: int) -> None:
    torch.manual_seed(3)
    layer, x = RowLinear(512, 96).requires_grad_(False), torch.randn(rows, 512)
    expected = x.double().numpy() @ layer.weight.double().numpy().T + layer.bias.double().numpy()
    assert worst(layer(x), expected) < 1e-5
    with torch.inference_mode():
        assert worst(layer(x).clone(), expected) < 1e-5


def test_row_linear_has_gradients() -> None:
    layer, x = RowLinear(12, 4), torch.randn(3, 12)
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(4, -1), atol=1e-6)
    frozen, leaf = RowLinear(12, 4).requires_grad_(False), torch.randn(3, 12, requires_grad=True)
    frozen(leaf).sum().backward()
    assert torch.allclose(leaf.grad, frozen.weight.sum(0).expand(3, -1), atol=1e-6)


def test_with_token_linears_keeps_parameters_and_other_layers() -> None:
    inner = nn.Sequential(nn.Linear(8, 2, bias=False))
    network = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), inner, RowLinear(2, 2))
    before = dict(network.named_parameters())
    assert with_token_linears(network) is network
    kinds = [type(module) for module in (network[0], network[1], network[2][0], network[3])]
    assert kinds == [TokenLinear, nn.LayerNorm, TokenLinear, RowLinear]
    after = dict(network.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)


def test_exported_graphs_have_plain_linear_operators() -> None:
    network = nn.Sequential(TokenLinear(6, 6), RowLinear(6, 6)).eval().requires_grad_(False)
    program = torch.export.export(network, (torch.zeros(200, 6),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called == ["aten.linear.default"] * 2
    assert program.module()(torch.zeros(3, 6)).shape == (3, 6)
