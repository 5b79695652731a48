"""Bounds on what a checkpoint says of itself, which is a claim: checked before memory is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icf_avs.errors import UserError

if TYPE_CHECKING:
    from icf_avs.config import ModelConfig
    from icf_avs.types import ClipSpec

FILE = "model.safetensors"  # the checkpoint in a folder or in a repository of the hub
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_LONGEST_HEADER = 1 << 22  # bytes; the shipped checkpoint has 24 kB
# Of the numbers in configuration and clip specification. What they cost in tensors is bounded by the file's own
# shapes (fitted); these bound the rest: modules that are built, and memory of one prediction.
_MOST = {
    "dim": 8_192,
    "pixel_dim": 8_192,
    "heads": 1_024,
    "layers": 64,
    "windows": 64,
    "frames": 10_000,
    "image_size": 4_096,
}
_MOST_ELSE, _MOST_NAMES, _LONGEST_NAME = 1_000_000, 20_000, 1_000


def check_length(path: Path) -> None:
    """Raise UserError if the header of a safetensors file claims to be longer than any of ours."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise UserError(
            f"{path}: not a safetensors file of icf-avs (its header claims {length} bytes, {_LONGEST_HEADER} are the "
            "most); get it again"
        )


def check_settings(settings: ModelConfig | ClipSpec) -> None:
    """Raise ValueError for a number that no model of ours has, or a value of another type than declared."""
    for item in fields(settings):
        name, value = item.name, getattr(settings, item.name)
        if is_dataclass(value):
            check_settings(value)
        elif item.type in ("int", "float"):
            kinds = (int,) if item.type == "int" else (int, float)
            most = _MOST.get(name, _MOST_ELSE)
            if type(value) not in kinds or not math.isfinite(value) or not 0 <= value <= most:
                raise ValueError(f"{name} is {_short(value)}; want {item.type} from 0 to {most}")
        elif item.type in ("bool", "str"):
            if type(value).__name__ != item.type:
                raise ValueError(f"{name} is {_short(value)}; want {item.type}")
        elif isinstance(value, tuple):
            if len(value) > _MOST_NAMES:
                raise ValueError(f"{len(value)} {name} are more than {_MOST_NAMES}")
            if not all(isinstance(word, str) and len(word) <= _LONGEST_NAME for word in value):
                raise ValueError(f"{name} are not a list of names")


def fitted(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file in the types that the model has, whatever precision they were saved in.

    Raises ValueError unless those that both have are of the same shape, all finite, and mean the same in both types:
    weights may be of any precision, but whole numbers must be what they were. `expected` may lie on the meta device.
    """
    found = dict(state)
    for name in sorted(state.keys() & expected.keys()):
        value, wanted = state[name], expected[name]
        if value.shape != wanted.shape:
            raise ValueError(f"{name[:80]} is {[*value.shape]}, by its configuration {[*wanted.shape]}")
        if not _means(value, wanted.dtype):
            raise ValueError(f"{name[:80]} is of {value.dtype}, not {wanted.dtype}, and cannot be told from it")
        found[name] = value.to(wanted.dtype)
        if not found[name].isfinite().all():
            raise ValueError(f"{name[:80]} is not all finite")
    return found


def _means(value: Tensor, wanted: torch.dtype) -> bool:
    """Whether a tensor says what one of another type would: whole numbers only where its own type holds all of them."""
    if wanted.is_floating_point or value.is_complex():
        return value.is_floating_point()
    most = 2 / torch.finfo(value.dtype).eps if value.is_floating_point() else math.inf
    whole = value.double()
    return whole.equal(value.to(wanted).double()) and bool((whole.abs() <= most).all())


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    return repr(value)[:40]


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
