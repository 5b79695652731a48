"""The CSV tables of a set: its own, and `scenes.csv`, which only the Stamps sets have and which says what is where."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from icf_avs.errors import Fault, UserError, refused

# Not names of kinds, though the public table has them among them.
_STRAY = {"", "off-the-screen", "background"}


@dataclass(frozen=True)
class Scene:
    """What scenes.csv says of one clip: kinds that sound at some time, kinds in the picture, kinds by the second."""

    sounding: frozenset[str]
    onscreen: frozenset[str]
    seconds: tuple[frozenset[str], ...] | None


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file as dictionaries. Raises UserError if it cannot be read or lacks one of `columns`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            rows = [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; want a CSV table with columns {', '.join(columns)}") from error
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(missing)}; want {', '.join(columns)}")
    return rows


def kinds(text: str) -> frozenset[str]:
    """Names in a cell of `a_obj`: joined by "_" ("-" is part of a name); strays dropped, "h orse" is horse."""
    return frozenset(token.replace(" ", "") for token in text.split("_")) - _STRAY


def check_columns(path: Path, rows: list[dict[str, str]], known: tuple[str, ...]) -> None:
    """Raise UserError if rows of `read_table` have a column that nothing reads: it may be a known one misspelt."""
    unknown = [column for column in (rows[0] if rows else ()) if column not in known]
    if unknown:
        raise UserError(f"{path}: nothing reads the column {unknown[0]!r}; want {', '.join(known)}, so take it out")


def read_scenes(root: Path, fault: Fault = refused) -> dict[str, Scene]:
    """scenes.csv of the set in `root` by clip; empty if there is none. Raises UserError for a malformed one."""
    path = root / "scenes.csv"
    if not path.is_file():
        return {}
    rows = read_table(path, ("video_id", "sounding", "onscreen"))
    return {
        row["video_id"]: Scene(
            frozenset(row["sounding"].split()),
            frozenset(row["onscreen"].split()),
            _seconds(row.get("stamps"), path, fault),
        )
        for row in rows
    }


def _seconds(stamps: str | None, path: Path, fault: Fault) -> tuple[frozenset[str], ...] | None:
    """Kinds that sound in each second, from stamps "stem|kind|digits" joined by ";", a digit 1 where it sounds."""
    if not stamps:
        return None
    parts = [stamp.split("|") for stamp in stamps.split(";")]
    if any(len(part) != 3 or len(part[2]) != len(parts[0][2]) for part in parts):
        return fault(f"{path}: {stamps[:60]!r} is no list of stamps (stem|kind|11010;...); write the set again")
    return tuple(
        frozenset(kind for _, kind, digits in parts if kind and digits[second] == "1")
        for second in range(len(parts[0][2]))
    )
