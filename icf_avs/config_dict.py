"""Settings out of dictionaries, as checkpoints and run folders keep them, whichever version wrote them."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")

# Names that settings had before, by class.
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
    """A decorator of a settings class: an earlier name of a field is an error that says the new one."""
    names, init = EARLIER[of.__name__], of.__init__

    @wraps(init)
    def checked(self: Settings, *args: Any, **values: Any) -> None:
        for old in names.keys() & values.keys():
            raise TypeError(f"{of.__name__}: {old} is now called {names[old]}")
        init(self, *args, **values)

    of.__init__ = checked  # type: ignore[method-assign]
    return of


def from_dict(of: type[Settings], values: dict[str, Any]) -> Settings:
    """Inverse of `dataclasses.asdict`, after a trip through JSON; what is absent has its default. Raises TypeError or
    ValueError where the values do not fit.
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
