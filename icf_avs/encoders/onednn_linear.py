"""Linear layers as a CPU is fastest at them: by oneDNN, where PyTorch takes MKL for float32.

MKL keeps to AVX2 on processors that are not Intel's; where there is AVX-512, oneDNN is twice as fast there. The numbers
are the same to the rounding of float32, and parameters have the names and shapes that they have in nn.Linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 128  # tokens: with fewer, to lay out the matrix for oneDNN takes longer than its product spares
SMALL = 20_480  # numbers up to which PyTorch gives one dilated picture to no library, but to a loop over its pixels


def _one_dnn(x: Tensor) -> bool:
    """Whether oneDNN is there and pays for this input."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()  # an exported graph holds what other programs know
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


class TokenLinear(nn.Linear):
    """[...,inputs] -> [...,outputs], for many tokens at once; it trains like any other layer."""

    def forward(self, x: Tensor) -> Tensor:
        if not _one_dnn(x) or x.numel() < FEW * self.in_features or x.numel() <= SMALL:
            return super().forward(x)
        # All tokens as the rows of one picture. The kernel is a single point, so its dilation changes nothing; but
        # without it, on one thread, PyTorch would turn the convolution into MKL's product again, and the way back too.
        tokens = x.flatten(0, -2)[None, :, None].permute(0, 3, 1, 2)
        y = F.conv2d(tokens, self.weight[:, :, None, None], self.bias, dilation=2)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class RowLinear(nn.Linear):
    """[N,inputs] -> [N,outputs], for a large matrix and few rows: what counts is to read the weights but once."""

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if learns or not _one_dnn(x):
            return super().forward(x)
        return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


def with_token_linears(network: nn.Module) -> nn.Module:
    """The same network: its linear layers become TokenLinear in place, with the parameters that they have."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = TokenLinear
    return network


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d with kernels of a single point, [outputs,inputs,1,1]: for these a dilation changes nothing; but without
    one, on one thread, PyTorch gives them to MKL in place of oneDNN, which takes half as long. A single small picture
    goes to neither with a dilation, but to a loop over its pixels.
    """
    # What is exported may run anywhere, and must not depend on how many pictures it was exported with.
    to_one_dnn = x.device.type == "cpu" and not torch.compiler.is_compiling() and (len(x) > 1 or x.numel() > SMALL)
    return F.conv2d(x, weight, bias, dilation=2 if to_one_dnn else 1)


class PointConv(nn.Conv2d):
    """[N,inputs,h,w] -> [N,outputs,h,w], every pixel by itself; it trains like any other layer."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)
