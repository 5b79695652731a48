"""Bounds on the numbers, names and types of settings that a file claims: checked before anything is built from them."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icf_avs.config import ModelConfig
    from icf_avs.types import ClipSpec

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


def check_settings(settings: ModelConfig | ClipSpec) -> None:
    """Raise ValueError for a number that no model of ours has, or a value of another type than declared."""
    for item in fields(settings):
        name, value = item.name, getattr(settings, item.name)
        if is_dataclass(value):
            check_settings(value)
        elif item.type in ("int", "float"):
            types = (int,) if item.type == "int" else (int, float)
            most = _MOST.get(name, _MOST_ELSE)
            if type(value) not in types or not math.isfinite(value) or not 0 <= value <= most:
                raise ValueError(f"{name} is {_short(value)}; want {item.type} from 0 to {most}")
        elif item.type in ("bool", "str"):
            if type(value).__name__ != item.type:
                raise ValueError(f"{name} is {_short(value)}; want {item.type}")
        elif isinstance(value, tuple):
            if len(value) > _MOST_NAMES:
                raise ValueError(f"{len(value)} {name} are more than {_MOST_NAMES}")
            if not all(isinstance(word, str) and len(word) <= _LONGEST_NAME for word in value):
                raise ValueError(f"{name} are not a list of names")


def _short(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    return repr(value)[:40]
