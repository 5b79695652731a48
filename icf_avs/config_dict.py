"""Settings from the dictionaries in checkpoints and run folders, and from KEY=VALUE of the command line. Numbers, names
and types from a file are checked against bounds before anything is built.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from icf_avs.arg_types import learning_rate, positive_number, share, whole
from icf_avs.errors import UserError, did_you_mean

Settings = TypeVar("Settings")

# Parsers for the options of `icf train` and KEY=VALUE, by name of a setting. Others accept any value of their type.
LIMITS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("steps", "checkpoint_every"), whole(1, 10**8)),
    **dict.fromkeys(("audio_pretrain_steps", "highres_steps"), whole(0, 10**8)),
    **dict.fromkeys(("batch", "audio_pretrain_batch", "grad_accum_steps", "images", "clips", "highres_images",
        "highres_clips", "validation", "dim", "heads", "layers", "width", "chain", "depth", "draws",
        "keep", "jumps", "blocks"), whole(1, 10**6)),
    **dict.fromkeys(("image_size", "highres_size"), whole(32, 4096)),
    **dict.fromkeys(("clip_share", "highres_clip_share", "weight_decay"), share),
    **dict.fromkeys(("clip_norm", "temperature"), positive_number),
    "learning_rate": learning_rate,
    "sample_rate": whole(16_000, 48_000),
}  # fmt: skip

# Earlier names of settings, by class.
EARLIER = {
    "TrainConfig": {
        "teach_steps": "audio_pretrain_steps", "teach_batch": "audio_pretrain_batch",
        "teach_patience": "audio_pretrain_patience", "finish": "highres_steps", "finish_size": "highres_size",
        "finish_clip_share": "highres_clip_share", "text": "text_encoder",
    },
    "DataConfig": {
        "pictures": "images", "finish_pictures": "highres_images", "finish_clips": "highres_clips",
        "hard": "hard_fraction", "varied": "audio_augment",
    },
    "WordDataConfig": {"pictures": "images"},
    "BenchmarkConfig": {"sound": "audio_source", "accumulate": "grad_accum_steps"},
    "EvidenceConfig": {"akin": "synonym_threshold", "nameless": "name_dropout", "second": "second_scale"},
    "SC": {"space": "strategy"},
}  # fmt: skip


def reject_renamed_fields(of: type[Settings]) -> type[Settings]:
    """Decorator of a settings class: an earlier name of a field raises TypeError with the new name."""
    names, init = EARLIER[of.__name__], of.__init__

    @wraps(init)
    def checked(self: Settings, *args: Any, **values: Any) -> None:
        for old in names.keys() & values.keys():
            raise TypeError(f"{of.__name__}: {old} is now called {names[old]}")
        init(self, *args, **values)

    of.__init__ = checked  # type: ignore[method-assign]
    return of


def check_choices(settings: Any) -> None:
    """Raise ValueError for a value that is not among the choices of its field."""
    for name, hint in get_type_hints(type(settings)).items():
        value, kind = getattr(settings, name), get_args(hint)[0] if get_origin(hint) is tuple else hint
        known = get_args(kind) if get_origin(kind) is Literal else ()
        for word in value if isinstance(value, tuple) else (value,):
            if known and word not in known:
                raise ValueError(
                    f"{type(settings).__name__} has no {name.removesuffix('s')} {word}; there are {', '.join(known)}"
                )


def from_dict(of: type[Settings], values: dict[str, Any]) -> Settings:
    """Inverse of `dataclasses.asdict`, after a round trip through JSON; absent fields get their default. Raises
    TypeError or ValueError if the values do not fit.
    """
    types, names = get_type_hints(of), EARLIER.get(of.__name__, {})
    current = {names.get(name, name): value for name, value in dict(values).items()}
    return of(**{name: _value(types.get(name), value) for name, value in current.items()})


def _value(wanted: Any, value: Any) -> Any:
    parts = get_args(wanted) if value is not None else ()  # of X | None, and of tuple[X, ...]
    inner = next((part for part in (wanted, *parts) if is_dataclass(part)), None)
    if inner is not None and value is not None:
        return from_dict(inner, value)
    return tuple(value) if get_origin(wanted) is tuple else value


# Upper bounds of numbers in configuration and clip specification. The size of tensors is bounded by the shapes in the
# file (`convert_dtypes` in checkpoint/serialization.py); these bound the number of modules and the memory of one
# prediction.
_MOST = {"dim": 8_192, "pixel_dim": 8_192, "heads": 1_024, "layers": 64, "windows": 64, "frames": 10_000,
         "image_size": 4_096}  # fmt: skip
_MOST_ELSE, _MOST_NAMES, _LONGEST_NAME = 1_000_000, 20_000, 1_000


def check_settings(settings: Any) -> None:
    """Raise ValueError for a number outside the bounds of ModelConfig and ClipSpec, or a value of the wrong type."""
    for item in fields(settings):
        name, value = item.name, getattr(settings, item.name)
        if is_dataclass(value):
            check_settings(value)
        elif item.type in ("int", "float"):
            types = (int,) if item.type == "int" else (int, float)
            most = _MOST.get(name, _MOST_ELSE)
            if type(value) not in types or not math.isfinite(value) or not 0 <= value <= most:
                huge = isinstance(value, int) and value.bit_length() > 64
                said = "a number of more than 64 bits" if huge else repr(value)[:40]
                raise ValueError(f"{name} is {said}; want {item.type} from 0 to {most}")
        elif item.type in ("bool", "str"):
            if type(value).__name__ != item.type:
                raise ValueError(f"{name} is {repr(value)[:40]}; want {item.type}")
        elif isinstance(value, tuple):
            if len(value) > _MOST_NAMES:
                raise ValueError(f"{len(value)} {name} are more than {_MOST_NAMES}")
            if not all(isinstance(word, str) and len(word) <= _LONGEST_NAME for word in value):
                raise ValueError(f"{name} are not a list of names")


def with_settings(config: Settings, settings: Iterable[str]) -> Settings:
    """Return the configuration with each KEY=VALUE applied. Dots address nested settings; null removes an optional one.

    Raises UserError for an unknown key, a value of the wrong type or out of its limits, and incompatible values.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: want KEY=VALUE, as in learning_rate=0.0005")
        try:
            config = _with(config, key, text)
        except (ArgumentTypeError, TypeError, ValueError) as error:
            raise UserError(f"--set {setting}: {error}") from error
    return config


def _with(config: Any, key: str, text: str) -> Any:
    names, groups, hint = key.split("."), [config], Any
    for depth, name in enumerate(names):
        group, at = groups[-1], ".".join(names[:depth])
        if group is None:
            fit = "ICF, such as stamps-query" if at == "icf" else "that part"
            raise ValueError(f"recipe {config.name} has no `{at}`; choose a recipe with {fit}")
        if not is_dataclass(group):
            raise ValueError(f"{at} is one value and has no settings; set {at}=...")
        hints = get_type_hints(type(group))
        if name not in hints:
            raise ValueError(f"no setting {name!r}{did_you_mean(name, hints)} there are {', '.join(hints)}")
        groups.append(getattr(group, name))
        hint = hints[name]
    inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
    if inner and not (text == "null" and NoneType in get_args(hint)):
        known = [item.name for item in fields(inner)]
        raise ValueError(f"{key} is a group; set {key}.{'dim' if 'dim' in known else known[0]}=... and so on")
    value = LIMITS[names[-1]](text) if names[-1] in LIMITS else _read(text, hint)
    for name, group in zip(reversed(names), reversed(groups[:-1]), strict=True):
        value = replace(group, **{name: value})
    return value


def _read(text: str, hint: Any) -> Any:
    """Parse text as a value of a type. Raises ValueError if it is none."""
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    for wanted in kinds:
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
            if len(each) == len(value):
                return tuple(
                    _read(one if isinstance(one, str) else json.dumps(one), kind)
                    for one, kind in zip(value, each, strict=True)
                )
        if wanted in (int, float, bool, NoneType) and type(value) is wanted:
            if wanted in (int, float) and not 0 <= value < 10**18:  # false for NaN as well
                break
            return value
    known = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    similar = did_you_mean(text, known).rstrip(";")
    raise ValueError(f"{text[:40]!r}: want {', or '.join(map(_described, kinds))}{similar}")


def _described(kind: Any) -> str:
    """Describe the values of a type in words."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(inner)}"
    if get_origin(kind) is tuple:
        count = "" if inner[-1] is ... else f" of {len(inner)}"
        return f"a list{count} in brackets, each {_described(inner[0])}"
    words = {int: "a whole number of 0 or more", float: "a number of 0 or more", bool: "true or false"}
    return words.get(kind, "null" if kind is NoneType else "text")
