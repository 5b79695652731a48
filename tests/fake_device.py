"""Simulate a second device on machines without one: tensors are computed on the CPU but report the other device.

Within `pretended(...)` torch reports an NVIDIA GPU (or Apple's). Tensors moved to it are `Placed`: their values are on
the CPU, and every operation makes the device's checks. Operands on two devices raise, except where torch allows them
(copies, zero-dimensional tensors in elementwise operations, indices on the CPU). Reading values needs a copy to the
CPU. Apple's GPU has no float64 and lacks some operations. Speed and precision are not simulated.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

CPU = torch.device("cpu")
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_INDEXED = (
    torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default, torch.ops.aten._unsafe_index.Tensor,
)  # fmt: skip


class Placed(Tensor):
    """values: on the CPU; place: the reported device. To torch it is a CPU tensor without memory."""

    @staticmethod
    def __new__(cls, values: Tensor, place: torch.device) -> Placed:
        if place.type == "mps" and values.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype: the MPS framework doesn't support it.")
        return Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype
        )

    def __init__(self, values: Tensor, place: torch.device) -> None:
        self.values_on_cpu, self.place = values.detach(), place

    device = property(lambda self: self.place)
    is_cuda = property(lambda self: self.place.type == "cuda")
    is_mps = property(lambda self: self.place.type == "mps")
    is_cpu = property(lambda self: False)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.values_on_cpu.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Placed:
        copied = Placed(self.values_on_cpu.clone(), self.place)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        place = _place_of(func, args, kwargs)
        if place.type == "mps":
            _check_kernel(func, args)
        values = tree_map_only(Placed, lambda x: x.values_on_cpu, (args, kwargs))
        with torch.inference_mode(False):  # a view of a parameter must be an ordinary tensor too
            found = func(*values[0], **values[1])
            placed = tree_map_only(Tensor, lambda x: Placed(x, place), found) if place != CPU else found
        return return_and_correct_aliasing(func, args, kwargs, placed) if _aliases(func) else placed


@lru_cache
def _aliases(func) -> bool:
    """True if an operation returns an argument or a view of one."""
    return any(returned.alias_info is not None for returned in func._schema.returns)


def _place_of(func, args: tuple, kwargs: dict) -> torch.device:
    """Device of an operation's result. Raises RuntimeError, as torch does, for operands on two devices."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    if func in _COPIES:
        return tensors[0].device
    if func in _INDEXED:
        values = [leaf for leaf in tree_flatten((args[2:], kwargs))[0] if isinstance(leaf, Tensor)]
        indices = [leaf for leaf in tree_flatten(args[1])[0] if isinstance(leaf, Tensor)]
        wrong = [x for x in indices if x.device not in (CPU, args[0].device)]
        wrong += [x for x in values if x.device != args[0].device and not _number(x)]
        if wrong:
            raise RuntimeError(f"{func}: indices or values on {wrong[0].device}, indexed tensor on {args[0].device}")
        return args[0].device
    numbers = torch.Tag.pointwise in func.tags or func is torch.ops.aten.fill_.Tensor
    places = {x.device for x in tensors if not (numbers and _number(x))} or {x.device for x in tensors}
    changed = args[0] if func._schema.is_mutable and args and isinstance(args[0], Tensor) else None
    if len(places) > 1 or (changed is not None and changed.device not in places):
        found = ", ".join(sorted({str(x.device) for x in tensors}))
        raise RuntimeError(f"Expected all tensors to be on the same device, but found two devices, {found}: {func}")
    return places.pop()


def _check_kernel(func, args: tuple) -> None:
    """Raise for operations that PyTorch lacks on Apple's GPU, or lacked in the oldest supported version."""
    name = func.overloadpacket.__name__
    if name == "_adaptive_avg_pool2d" and any(x % y for x, y in zip(args[0].shape[-2:], args[1], strict=True)):
        raise RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes.")  # PyTorch issue 96056
    if name in ("_adaptive_avg_pool3d", "_upsample_bilinear2d_aa"):
        raise NotImplementedError(f"The operator 'aten::{name}' is not currently implemented for the MPS device.")


def _number(x: Tensor) -> bool:
    return x.device == CPU and x.dim() == 0


class _Move(torch.autograd.Function):
    """Move a tensor to a device, and its gradient back."""

    @staticmethod
    def forward(context, x: Tensor, place: torch.device) -> Tensor:
        context.place = x.device
        values = x.values_on_cpu if isinstance(x, Placed) else x
        with torch.inference_mode(False):
            return values.clone() if place == CPU else Placed(values.clone(), place)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        return _moved(gradient, context.place), None


def _moved(x: Tensor, place: torch.device) -> Tensor:
    return x if x.device == place else _Move.apply(x, place)


class _Pretend(TorchFunctionMode):
    """Intercepts Python calls that name a device or read values."""

    def __init__(self, place: torch.device) -> None:
        super().__init__()
        self.place = place

    def _found(self, device: Any) -> torch.device | None:
        """The simulated device or the CPU; None for others."""
        device = device.device if isinstance(device, Tensor) else torch.device(device)
        return self.place if device.type == self.place.type else CPU if device == CPU else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return self._to(func, args, kwargs)
        if func in (Tensor.cpu, Tensor.cuda):
            return _moved(args[0], CPU if func is Tensor.cpu else self.place)
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], Placed):
            raise TypeError(f"can't convert {args[0].device} device type tensor to numpy. Use Tensor.cpu() first.")
        if func is Tensor.tolist and isinstance(args[0], Placed):
            return args[0].values_on_cpu.tolist()
        if func is F.one_hot and isinstance(args[0], Placed):  # makes a tensor internally, which is not intercepted
            return Placed(func(args[0].values_on_cpu, *args[1:], **kwargs), args[0].place)
        if kwargs.get("device") is not None and (place := self._found(kwargs["device"])) == self.place:
            made = func(*args, **kwargs | {"device": CPU})
            return made if isinstance(made, Placed) else Placed(made, place).requires_grad_(made.requires_grad)
        return func(*args, **kwargs)

    def _to(self, func, args: tuple, kwargs: dict) -> Tensor:
        x, *rest = args
        if rest and isinstance(rest[0], Tensor):
            rest, kwargs = (), {"device": rest[0].device, "dtype": rest[0].dtype} | kwargs
        device, dtype, _, layout = torch._C._nn._parse_to(*rest, **{k: v for k, v in kwargs.items() if k != "copy"})
        place = x.device if device is None else self._found(device)
        if place is None:
            return func(*args, **kwargs)
        changes = {} if dtype is None else {"dtype": dtype}
        changes |= {} if layout is None else {"memory_format": layout}
        if place.type == "mps":  # mps has no float64: convert before moving
            return _moved(func(x, **changes) if changes else x, place)
        moved = _moved(x, place)
        return func(moved, **changes) if changes else moved


_ANSWERS = {
    "is_available": True, "is_built": True, "device_count": 1, "current_device": 0, "set_device": None,
    "get_device_name": "pretended",
}  # fmt: skip


@contextmanager
def pretended(name: str = "cuda:0") -> Iterator[torch.device]:
    """Simulate a device of this name in the block and in threads started in it."""
    place, run = torch.device(name), threading.Thread.run

    def run_pretending(thread: threading.Thread) -> None:
        with _Pretend(place):
            run(thread)

    backend = torch.cuda if place.type == "cuda" else torch.backends.mps
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        stack.enter_context(patch.object(threading.Thread, "run", run_pretending))
        for attribute, value in _ANSWERS.items():
            if hasattr(backend, attribute):
                stack.enter_context(patch.object(backend, attribute, lambda *_, value=value: value))
        # Module.to() makes new parameters: a plain one cannot become a Placed in place.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        stack.enter_context(_Pretend(place))
        yield place
