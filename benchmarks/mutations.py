"""Mutations of structured inputs that stay well-formed enough to reach the code behind the parser."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
from fuzz_media import damaged

DEEP = "@deep@"  # replaced by deeply nested lists
LONG = "x" * 200_000  # more than the csv module accepts in a cell
TELLING: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 255, 256, 65_536, 2**31, 2**63, 10**9, 10**30, -(10**9), 1e308, 1e-320,
    float("nan"), float("inf"), "", " ", "0", "1", "-1", "nan", "1e999", "9" * 5_000, "\0", "\n", "\ud800", "../../x",
    "/", "..", ".", "~", "a/b", "a\\b", "%s", "\u202e", "é", "\u0661", LONG, DEEP, [], {}, [[]], [None], {"": None},
    ["a"] * 5_000,
)  # fmt: skip
_PICKLED = (  # pickle opcodes: names, calls, memos, marks, huge lengths
    b"cposix\nsystem\n(S'touch CANARY'\ntR0", b"cbuiltins\nexec\n(S'open(\"CANARY\",\"w\")'\ntR0", b"cos\nabort\n(tR0",
    b"0", b"2", b"(", b"R", b"b", b"Q", b"t", b"l", b"e", b"u", b"N", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f",
    b"\x8a\xff", b"h\x00", b"q\x00", b"\x96\xff\xff\xff\xff\xff\x00\x00\x00", b"\x8e\xff\xff\xff\xff\xff\x00\x00\x00",
    b"B\xff\xff\xff\x7f", b"\x93", b"\x81", b"J\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"I99999999999\n", b"(" * 1000, b"]" * 1000, b"(lp0\n",
)  # fmt: skip


def mutated_json(text: bytes, rng: np.random.Generator) -> bytes:
    """Return a JSON text with one to three values replaced, moved, left out or renamed."""
    document = [json.loads(text)]
    for _ in range(rng.integers(1, 4)):
        places = list(_places(document))
        holder, key = places[rng.integers(len(places))]
        match rng.integers(6):
            case 0 | 1:
                holder[key] = _telling(rng)
            case 2:
                other, place = places[rng.integers(len(places))]
                holder[key] = json.loads(json.dumps(other[place]))
            case 3 if holder is not document:
                del holder[key]
            case 4:
                holder[key] = _changed(holder[key], rng)
            case 5 if isinstance(holder, dict):
                holder[str(_telling(rng))[:40]] = holder.pop(key)
    found = json.dumps(document[0], ensure_ascii=bool(rng.integers(2)))
    deep = int(rng.choice([20, 900, 100_000]))
    found = found.replace(f'"{DEEP}"', "[" * deep + "]" * deep)
    return found.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Yield all (container, key) of a document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _telling(rng: np.random.Generator) -> Any:
    value = TELLING[rng.integers(len(TELLING))]
    return json.loads(json.dumps(value)) if isinstance(value, list | dict) else value


def _changed(value: Any, rng: np.random.Generator) -> Any:
    """Return a similar value."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return [-value, value * 10**9, value + 1, value - 1, value + 0.5, str(value), [value], 8 * value][
            rng.integers(8)
        ]
    if isinstance(value, str):
        return [value + "\0", value * 300, value[:-1], "../" + value, value.upper(), [value], value + "é"][
            rng.integers(7)
        ]
    if isinstance(value, list):
        return [value * 2, value[:-1], value[::-1], value * 400 if len(value) < 20 else [], value[:1], {}][
            rng.integers(6)
        ]
    return [list(item) for item in value.items()] if rng.integers(2) else list(value)


def mutated_csv(text: bytes, rng: np.random.Generator) -> bytes:
    """Return a table with one or two cells, rows or columns changed, in one of the formats that spreadsheets write."""
    rows = list(csv.reader(io.StringIO(text.decode())))
    for _ in range(rng.integers(1, 3)):
        if not rows:
            break
        row = rows[rng.integers(len(rows))]
        place = int(rng.integers(len(row))) if row else 0
        match rng.integers(9):
            case 0 | 1 | 2 if row:
                row[place] = str(_telling(rng))
            case 3 if row:
                row[place] = str(_changed(row[place], rng))
            case 4:
                row.insert(place, str(_telling(rng)))
            case 5 if row:
                del row[place]
            case 6:
                rows.insert(int(rng.integers(len(rows) + 1)), list(row))
            case 7:
                rows.remove(row)
            case 8:
                rows.extend([list(row)] * 200)
    out = io.StringIO(newline="")
    quoting, end = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), ["\n", "\r\n", "\r"][rng.integers(3)]
    delimiter = (10 * "," + ";\t")[rng.integers(12)]
    csv.writer(out, quoting=int(quoting), lineterminator=end, delimiter=delimiter).writerows(rows)
    coding = (7 * ["utf-8"] + ["utf-8-sig", "utf-16", "latin-1"])[rng.integers(10)]
    return out.getvalue().encode(coding, "replace" if coding == "latin-1" else "surrogatepass")


def mutated_checkpoint(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a safetensors file with another configuration, specification, recipe, header or weights."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    match rng.integers(8):
        case 0 | 1 | 2 | 3:
            notes = header["__metadata__"]
            part = ("config", "config", "spec", "recipe", "format")[rng.integers(5)]
            if part == "format":
                notes[part] = str(_telling(rng))
            else:
                notes[part] = mutated_json(notes[part].encode(), rng).decode("utf-8", "replace")
        case 4 | 5:
            text = mutated_json(json.dumps(header).encode(), rng)
            return _length(len(text), rng) + text + body
        case 6:
            body = bytearray(body)
            place = 4 * int(rng.integers(len(body) // 4))
            body[place : place + 4] = np.float32(rng.choice([np.nan, np.inf, 3e38, -3e38, 0])).tobytes()
        case 7:
            return damaged([content], rng)
    text = json.dumps(header).encode()
    return _length(len(text), rng) + text + bytes(body)


def _length(count: int, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.05:
        count = int(rng.choice([0, 1, count - 1, count + 1, 2**31, 2**32, 2**62]))
    return count.to_bytes(8, "little")


def mutated_pickle(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a pickle with opcodes inserted."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(min(len(data), 400))) if rng.random() < 0.8 else len(data) - int(rng.integers(1, 60))
        data[place:place] = _PICKLED[rng.integers(len(_PICKLED))]
    return bytes(data)


MUTATED = {"csv": mutated_csv, "json": mutated_json, "checkpoint": mutated_checkpoint, "pickle": mutated_pickle}


def mutated(form: str, originals: tuple[bytes, ...], rng: np.random.Generator) -> bytes:
    """Return one of the originals, damaged as its form ("csv", "json", "checkpoint", "pickle") or byte by byte."""
    content = originals[rng.integers(len(originals))]
    if form in MUTATED and rng.random() < 0.8:
        content = MUTATED[form](content, rng)
        if rng.random() < 0.85:
            return content
    return damaged([content], rng) if len(content) > 16 else content
