"""Validate a JSON value against its schema: the part of JSON Schema that segmentation.schema.json uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_BOUNDS = {
    "minimum": lambda value, bound: value >= bound, "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound, "exclusiveMaximum": lambda value, bound: value < bound,
    "minItems": lambda value, bound: len(value) >= bound, "minProperties": lambda value, bound: len(value) >= bound,
    "pattern": lambda value, bound: re.search(bound, value), "const": lambda value, bound: value == bound,
}  # fmt: skip
_OTHERS = {"$schema", "$defs", "$ref", "title", "description", "type", "anyOf", "items", "required", "properties",
           "additionalProperties"}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, where: str = "$") -> Iterator[str]:
    """Yield a line per violation. Raises AssertionError for an unknown schema keyword."""
    root = root or schema
    assert not schema.keys() - _OTHERS - _BOUNDS.keys(), where
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
    if "anyOf" in schema and all(any(faults(value, choice, root, where)) for choice in schema["anyOf"]):
        yield f"{where}: fits no choice"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{where}: is no {schema['type']}"
        return
    yield from (f"{where}: {key}" for key in schema.keys() & _BOUNDS.keys() if not _BOUNDS[key](value, schema[key]))
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from faults(item, schema["items"], root, f"{where}[{index}]")
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        yield from (f"{where}: lacks {key}" for key in schema.get("required", ()) if key not in value)
        for key, item in value.items():
            if key in known or isinstance(rest, dict):
                yield from faults(item, known.get(key, rest), root, f"{where}.{key}")
            elif not rest:
                yield f"{where}: has {key}"


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, _TYPES[kind])
