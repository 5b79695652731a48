"""Settings out of dictionaries, as checkpoints and run folders keep them."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")


def from_dict(of: type[Settings], values: dict[str, Any]) -> Settings:
    """Inverse of `dataclasses.asdict`, after a trip through JSON; what is absent has its default. Raises TypeError or
    ValueError where the values do not fit.
    """
    types = get_type_hints(of)
    return of(**{name: _value(types.get(name), value) for name, value in dict(values).items()})


def _value(wanted: Any, value: Any) -> Any:
    parts = get_args(wanted) if value is not None else ()  # of X | None, and of tuple[X, ...]
    inner = next((part for part in (wanted, *parts) if is_dataclass(part)), None)
    if inner is not None and value is not None:
        return from_dict(inner, value)
    return tuple(value) if get_origin(wanted) is tuple else value
