"""A frozen convolution with the ReLU6 or the sum that follows it in one pass over memory, where oneDNN can do that.

Half of the time of a small convolution is memory: its output is written, read again to be clipped, and its kernel laid
out anew for every frame. oneDNN clips and adds while the numbers are still at hand, and takes a kernel that was laid
out once. These are private operators, which PyTorch's own compiler uses; where they or the processor are others, the
public steps are taken, with the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    method `placed(x)`: the kernel and the even padding that give the same.
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
        weight, padding = layer.placed(x) if hasattr(layer, "placed") else (layer.weight, layer.padding)
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
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )
