"""CPU layers that use oneDNN. Parameter names and shapes equal those of torch's layers, results up to float32 rounding.

Linear layers: PyTorch computes float32 products with MKL, which uses only AVX2 on non-Intel processors; with AVX-512,
oneDNN is twice as fast there.
Frozen convolutions, fused with the following ReLU6 or addition: half of the time of a small convolution is memory
access. Its output is written and read again for clipping, and its kernel is reordered for every frame. oneDNN clips and
adds while the values are in registers, and accepts a kernel that was reordered once. The operators are private;
PyTorch's compiler uses them. Without them or on other processors, public operators give the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_TOKENS = 128  # with fewer tokens, reordering the matrix for oneDNN takes longer than the product saves
SMALL_INPUT = 20_480  # elements; up to this size PyTorch convolves a single dilated image by a slow loop over pixels


def _use_onednn(x: Tensor) -> bool:
    """True if oneDNN is available and faster for this input."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()  # exported graphs need portable operators
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


class TokenLinear(nn.Linear):
    """Linear layer for many tokens, [...,inputs] -> [...,outputs]; trainable like any other layer."""

    def forward(self, x: Tensor) -> Tensor:
        if not _use_onednn(x) or x.numel() < MIN_TOKENS * self.in_features or x.numel() <= SMALL_INPUT:
            return super().forward(x)
        # All tokens as one image, convolved with a 1x1 kernel. Dilation has no effect on a 1x1 kernel, but without it
        # PyTorch on one thread would compute the convolution, and its backward pass, by MKL again.
        tokens = x.flatten(0, -2)[None, :, None].permute(0, 3, 1, 2)
        y = F.conv2d(tokens, self.weight[:, :, None, None], self.bias, dilation=2)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


class FewRowsLinear(nn.Linear):
    """Linear layer for few rows and a large matrix, [N,inputs] -> [N,outputs]: reads the weights only once."""

    def forward(self, x: Tensor) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if needs_gradient or not _use_onednn(x):
            return super().forward(x)
        return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


def with_token_linears(network: nn.Module) -> nn.Module:
    """Turn all linear layers of a network into TokenLinear, in place and with their parameters; return the network."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = TokenLinear
    return network


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.conv2d with 1x1 kernels, [outputs,inputs,1,1]. Dilation has no effect on these, but without it PyTorch on one
    thread uses MKL instead of oneDNN, which takes half as long. With dilation, a single small image would use neither
    but a loop over its pixels.
    """
    # An exported graph may run anywhere and must not depend on the number of images at export.
    use_onednn = (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and (len(x) > 1 or x.numel() > SMALL_INPUT)
    )
    return F.conv2d(x, weight, bias, dilation=2 if use_onednn else 1)


class PointConv(nn.Conv2d):
    """1x1 convolution, [N,inputs,h,w] -> [N,outputs,h,w]; trainable like any other layer."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


_PRIVATE_OPERATORS = "_convolution_pointwise", "_reorder_convolution_weight"  # undocumented operators of PyTorch
_MAX_CACHED = 2  # cached kernels per layer, least recently used dropped; each takes as much memory as the weights


class _Kernel(NamedTuple):
    """Kernel reordered for one input shape and one version of the weights, with its symmetric padding."""

    kernel: Tensor
    padding: Sequence[int]
    version: int


# Per layer: reordered kernels by input shape, stride and dilation.
_cached: WeakKeyDictionary[nn.Conv2d, dict[tuple, _Kernel]] = WeakKeyDictionary()


def fused_conv(layer: nn.Conv2d, x: Tensor, relu6: bool = False, residual: Tensor | None = None) -> Tensor:
    """Compute layer(x) [N,C,h,w], clipped to [0, 6] if `relu6`, or with `residual` added. A layer with asymmetric
    padding has a method `shifted_kernel(x)`, which returns an equivalent kernel and symmetric padding.
    """
    if not _can_fuse(layer, x):
        y = layer(x)
        if relu6:
            return F.relu6(y, inplace=True)
        return y if residual is None else y + residual
    kernel = _kernel_for(layer, x)
    conv_args = kernel.kernel, layer.bias, kernel.padding, layer.stride, layer.dilation, layer.groups
    fused = torch.ops.mkldnn._convolution_pointwise
    if residual is not None:
        return fused.binary(x, residual, *conv_args, "add", 1.0, None, [], None)
    return fused(x, *conv_args, "hardtanh", [0.0, 6.0], "") if relu6 else fused(x, *conv_args, "none", [], "")


def _kernel_for(layer: nn.Conv2d, x: Tensor) -> _Kernel:
    shape, cached = (x.shape, layer.stride, layer.dilation), _cached.setdefault(layer, {})
    kernel = cached.pop(shape, None)
    if kernel is None or kernel.version != layer.weight._version:
        weight, padding = layer.shifted_kernel(x) if hasattr(layer, "shifted_kernel") else (layer.weight, layer.padding)
        geometry = padding, layer.stride, layer.dilation, layer.groups
        reordered = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, x.shape)
        kernel = _Kernel(reordered, padding, layer.weight._version)
    cached[shape] = kernel  # now the most recently used
    if len(cached) > _MAX_CACHED:
        del cached[next(iter(cached))]
    return kernel


def _can_fuse(layer: nn.Conv2d, x: Tensor) -> bool:
    """True if fusing is possible: oneDNN on a CPU, no export, and a frozen layer whose weight version is reliable. A
    fused optimizer updates weights without changing the version.
    """
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
        and all(hasattr(torch.ops.mkldnn, name) for name in _PRIVATE_OPERATORS)
    )


def separable_conv(dim: int, norm: bool = True) -> nn.Sequential:
    """Depthwise-separable convolution: 3x3 depthwise, 1x1 pointwise, GroupNorm (if `norm`) and ReLU."""
    return nn.Sequential(
        nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=not norm),
        PointConv(dim, dim, bias=not norm),
        *([nn.GroupNorm(8, dim)] if norm else []),
        nn.ReLU(inplace=True),
    )
