"""Bounds on what a checkpoint claims, checked before memory is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from icf_avs.errors import UserError

FILE = "model.safetensors"  # the checkpoint in a folder or in a repository of the hub
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_LONGEST_HEADER = 1 << 22  # bytes; the shipped checkpoint has 24 kB


def check_length(path: Path) -> None:
    """Raise UserError if the header of a safetensors file claims to be longer than any of ours."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise UserError(
            f"{path}: not a safetensors file of icf-avs (its header claims {length} bytes, {_LONGEST_HEADER} are the "
            "most); get it again"
        )


def fitted(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file in the types that the model has, whatever precision they were saved in.

    Raises ValueError unless those that both have are of the same shape, all finite, and mean the same in both types:
    weights may be of any precision, but whole numbers must be what they were. `expected` may lie on the meta device.
    """
    found = dict(state)
    for name in sorted(state.keys() & expected.keys()):
        value, target = state[name], expected[name]
        if value.shape != target.shape:
            raise ValueError(f"{name[:80]} is {[*value.shape]}, by its configuration {[*target.shape]}")
        if not _means(value, target.dtype):
            raise ValueError(f"{name[:80]} is of {value.dtype}, not {target.dtype}, and cannot be told from it")
        found[name] = value.to(target.dtype)
        if not found[name].isfinite().all():
            raise ValueError(f"{name[:80]} is not all finite")
    return found


def _means(value: Tensor, expected: torch.dtype) -> bool:
    """Whether a tensor says what one of another type would: whole numbers only where its own type holds all of them."""
    if expected.is_floating_point or value.is_complex():
        return value.is_floating_point()
    most = 2 / torch.finfo(value.dtype).eps if value.is_floating_point() else math.inf
    whole = value.double()
    return whole.equal(value.to(expected).double()) and bool((whole.abs() <= most).all())


def check_files(where: str, names: Iterable[str]) -> None:
    """Raise UserError unless a checkpoint is among the files of a folder or repository; never take a pickle for it."""
    names = sorted(names)
    if FILE in names:
        return
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        raise UserError(
            f"{where}: {pickles[0]} is a pickle, which can run any code when it is opened, and is refused; "
            f"ask for {FILE} (`save_pretrained` writes it)"
        )
    raise UserError(
        f"{where}: has no {FILE}, so it is not a model of icf-avs; name another, or a .safetensors file in it"
    )
