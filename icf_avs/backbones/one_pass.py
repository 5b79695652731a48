"""A convolution and what comes after it in one pass over memory, on the CPUs for which oneDNN can do that.

Where nothing is learnt, half of the time of a small convolution is memory: its output is written, read again to be
clipped, and its kernel laid out anew for every picture. oneDNN clips and adds while the numbers are still at hand, and
takes a kernel that was laid out once. PyTorch's own compiler uses it so; the results are those of separate steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CAPABLE = ("AVX2", "AVX512")
_MOST = 2  # kernels that are kept of a layer, the last used ones: each takes the memory of the weights once more


class _Kept(NamedTuple):
    """A kernel as it is laid out for inputs of one shape, and the version of the weights that it was made of."""

    kernel: Tensor
    padding: Sequence[int]
    version: int

    @classmethod
    def of(cls, layer: nn.Conv2d, x: Tensor) -> _Kept:
        weight, padding = layer.placed(x) if hasattr(layer, "placed") else (layer.weight, layer.padding)
        geometry = padding, layer.stride, layer.dilation, layer.groups
        kernel = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, x.shape)
        return cls(kernel, padding, layer.weight._version)


# Of each layer, by the shape of its input, its stride and its dilation.
_laid_out: WeakKeyDictionary[nn.Conv2d, dict[tuple, _Kept]] = WeakKeyDictionary()


def convolved(layer: nn.Conv2d, x: Tensor, clip: bool = False, plus: Tensor | None = None) -> Tensor:
    """layer(x), clipped to [0, 6] (ReLU6) if `clip`, or with `plus` added. A layer that pads unevenly says so itself:
    `placed(x)` gives the kernel and the padding with which it can be told evenly.
    """
    if not _possible(layer, x):
        y = layer(x)
        if clip:
            return F.relu6(y, inplace=True)
        return y if plus is None else y + plus
    wanted = x.shape, layer.stride, layer.dilation
    laid_out = _laid_out.setdefault(layer, {})
    kept = laid_out.pop(wanted, None)
    if kept is None or kept.version != layer.weight._version:
        kept = _Kept.of(layer, x)
    laid_out[wanted] = kept  # the last one now
    if len(laid_out) > _MOST:
        del laid_out[next(iter(laid_out))]
    given = kept.kernel, layer.bias, kept.padding, layer.stride, layer.dilation, layer.groups
    one_pass = torch.ops.mkldnn._convolution_pointwise
    if plus is not None:
        return one_pass.binary(x, plus, *given, "add", 1.0, None, [], None)
    return one_pass(x, *given, "hardtanh", [0.0, 6.0], "") if clip else one_pass(x, *given, "none", [], "")


def _possible(layer: nn.Conv2d, x: Tensor) -> bool:
    """Nothing is learnt, and the weights know when they change: those of a fused optimizer do not."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not layer.weight.requires_grad
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not layer.weight.is_inference()
        and not torch.compiler.is_compiling()
        and _capable()
    )


@lru_cache(maxsize=1)
def _capable() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in _CAPABLE
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )
