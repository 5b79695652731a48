"""Bounds on what a checkpoint says of itself, which is a claim: checked before memory is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_avs.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from icf_avs.config import ModelConfig
    from icf_avs.contracts import ClipSpec

_LONGEST_HEADER = 1 << 22  # bytes; the shipped checkpoint has 24 kB
# Of the numbers in configuration and clip specification. What they cost in tensors is bounded by the file's own
# shapes (check_shapes); these bound the rest: modules that are built, and memory of one prediction.
_MOST = {"dim": 8_192, "pixel_dim": 8_192, "heads": 1_024, "layers": 64, "frames": 10_000, "image_size": 4_096}
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
                raise ValueError(f"{name} are no list of names")


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors that both have are of the same shape, kind of number, and all finite.

    `expected` may lie on the meta device.
    """
    for name in sorted(state.keys() & expected.keys()):
        found, wanted = state[name], expected[name]
        if found.shape != wanted.shape:
            raise ValueError(f"{name[:80]} is {[*found.shape]}, by its configuration {[*wanted.shape]}")
        if found.is_floating_point() != wanted.is_floating_point():
            raise ValueError(f"{name[:80]} is of {found.dtype}, not {wanted.dtype}")
        if not found.isfinite().all():
            raise ValueError(f"{name[:80]} is not all finite")


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    return repr(value)[:40]
