"""Settings of a configuration as text, `icf.cdcl.temperature=0.1`, read by the type of the field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from icf_avs.errors import UserError, did_you_mean

Config = TypeVar("Config")


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """The configuration with each KEY=VALUE; dots lead into its parts, and null leaves an optional part out.

    Raises UserError for an unknown key, a value of another type, and values that do not go together.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: want KEY=VALUE, as in learning_rate=0.0005")
        try:
            config = _with(config, key.split("."), text)
        except (TypeError, ValueError) as error:
            raise UserError(f"--set {setting}: {error}") from error
    return config


def _with(config: Any, path: list[str], text: str) -> Any:
    name, *inner = path
    hints = get_type_hints(type(config)) if is_dataclass(config) else {}
    if name not in hints:
        known = ", ".join(hints) or "no settings, for the recipe leaves this part out"
        raise ValueError(f"no setting {name!r}{did_you_mean(name, hints)} there are {known}")
    value = _with(getattr(config, name), inner, text) if inner else _read(text, hints[name])
    return replace(config, **{name: value})


def _read(text: str, hint: Any) -> Any:
    """Text as a value of a type. Raises ValueError where it is none."""
    for wanted in get_args(hint) if get_origin(hint) is UnionType else (hint,):
        if wanted is str or (get_origin(wanted) is Literal and text in get_args(wanted)):
            return text
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if wanted is float and type(value) is int:
            value = float(value)
        if get_origin(wanted) is tuple and isinstance(value, list):
            inner = get_args(wanted)
            each = inner[:1] * len(value) if inner[-1] is ... else inner
            return tuple(
                _read(one if isinstance(one, str) else json.dumps(one), kind)
                for one, kind in zip(value, each, strict=True)
            )
        if wanted in (int, float, bool, NoneType) and type(value) is wanted:
            if wanted in (int, float) and not (math.isfinite(value) and value >= 0):
                break
            return value
    raise ValueError(f"{text[:40]!r} is not {getattr(hint, '__name__', str(hint).replace('typing.', ''))}")
