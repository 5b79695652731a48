"""Layers by oneDNN on a CPU, with the names, the shapes and, to the rounding of float32, the numbers of torch's own.

Linear layers: PyTorch gives float32 products to MKL, which keeps to AVX2 on processors that are not Intel's; with
AVX-512 oneDNN is twice as fast there.
Frozen convolutions with the ReLU6 or the sum that follows: half of the time of a small convolution is memory. Its
output is written and read again to be clipped, and its kernel is laid out anew for every frame. oneDNN clips and adds
while the numbers are in registers, and takes a kernel that was laid out once. These are private operators, which
PyTorch's own compiler uses; where they or the processor differ, the public steps give the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_TOKENS = 128  # tokens: with fewer, to lay out the matrix for oneDNN takes longer than its product spares
SMALL_INPUT = 20_480  # numbers up to which PyTorch gives one dilated image to no library, but to a loop over its pixels


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
        if not _one_dnn(x) or x.numel() < MIN_TOKENS * self.in_features or x.numel() <= SMALL_INPUT:
            return super().forward(x)
        # All tokens as the rows of one image. The kernel is a single point, so its dilation changes nothing; but
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
    one, on one thread, PyTorch gives them to MKL in place of oneDNN, which takes half as long. A single small image
    goes to neither with a dilation, but to a loop over its pixels.
    """
    # What is exported may run anywhere, and must not depend on how many images it was exported with.
    to_one_dnn = (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and (len(x) > 1 or x.numel() > SMALL_INPUT)
    )
    return F.conv2d(x, weight, bias, dilation=2 if to_one_dnn else 1)


class PointConv(nn.Conv2d):
    """[N,inputs,h,w] -> [N,outputs,h,w], every pixel by itself; it trains like any other layer."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


_PRIVATE = "_convolution_pointwise", "_reorder_convolution_weight"  # operators of PyTorch that it does not document
_MOST = 2  # kernels that are cached of a layer, the last used ones: each takes the memory of the weights once more


class _Kernel(NamedTuple):
    """Laid out for inputs of one shape, with the padding on both sides, from one version of the weights."""

    kernel: Tensor
    padding: Sequence[int]
    version: int


# Of each layer, by the shape of its input, its stride and its dilation.
_cached: WeakKeyDictionary[nn.Conv2d, dict[tuple, _Kernel]] = WeakKeyDictionary()


def fused_conv(layer: nn.Conv2d, x: Tensor, relu6: bool = False, residual: Tensor | None = None) -> Tensor:
    """layer(x) [N,C,h,w], clipped to [0, 6] if `relu6`, or with `residual` added. A layer that pads unevenly has a
    method `shifted_kernel(x)`: the kernel and the even padding that give the same.
    """
    if not _possible(layer, x):
        y = layer(x)
        if relu6:
            return F.relu6(y, inplace=True)
        return y if residual is None else y + residual
    kernel = _kernel_for(layer, x)
    given = kernel.kernel, layer.bias, kernel.padding, layer.stride, layer.dilation, layer.groups
    fused = torch.ops.mkldnn._convolution_pointwise
    if residual is not None:
        return fused.binary(x, residual, *given, "add", 1.0, None, [], None)
    return fused(x, *given, "hardtanh", [0.0, 6.0], "") if relu6 else fused(x, *given, "none", [], "")


def _kernel_for(layer: nn.Conv2d, x: Tensor) -> _Kernel:
    shape, cached = (x.shape, layer.stride, layer.dilation), _cached.setdefault(layer, {})
    kernel = cached.pop(shape, None)
    if kernel is None or kernel.version != layer.weight._version:
        weight, padding = layer.shifted_kernel(x) if hasattr(layer, "shifted_kernel") else (layer.weight, layer.padding)
        geometry = padding, layer.stride, layer.dilation, layer.groups
        laid_out = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, x.shape)
        kernel = _Kernel(laid_out, padding, layer.weight._version)
    cached[shape] = kernel  # the last one now
    if len(cached) > _MOST:
        del cached[next(iter(cached))]
    return kernel


def _possible(layer: nn.Conv2d, x: Tensor) -> bool:
    """Nothing is trained, and the weights know when they change: those of a fused optimizer do not."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not layer.weight.requires_grad
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not layer.weight.is_inference()
        and not torch.compiler.is_compiling()
        and _available()
    )


@lru_cache(maxsize=1)
def _available() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and all(hasattr(torch.ops.mkldnn, name) for name in _PRIVATE)
    )


def separable_conv(dim: int, norm: bool = True) -> nn.Sequential:
    """A 3 x 3 convolution of each channel, a linear layer over channels, GroupNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=not norm),
        PointConv(dim, dim, bias=not norm),
        *([nn.GroupNorm(8, dim)] if norm else []),
        nn.ReLU(inplace=True),
    )
