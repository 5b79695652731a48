"""Tables of a set: CSV files, AVSS class ids, and `scenes.csv` of our own sets (which classes sound when).

Public files disagree about the class names and count from 0 or from 1, so they are always read from the set itself.
"""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from pathlib import Path

from icf_avs.datasets.image_io import CLASSES
from icf_avs.errors import Fault, UserError, refused

AVSS_TABLE, AVSS_COLUMNS = "metadata.csv", ("uid", "split", "label", "a_obj")
_NO_CLASSES = {"", "off-the-screen", "background"}  # listed among the class names in the public table


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the rows of a CSV file as dictionaries. Raises UserError if it is unreadable or lacks one of `columns`."""
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


def check_columns(path: Path, rows: list[dict[str, str]], known: tuple[str, ...]) -> None:
    """Raise UserError if rows of `read_table` have an unknown column, which may be a misspelt one."""
    unknown = [column for column in (rows[0] if rows else ()) if column not in known]
    if unknown:
        raise UserError(f"{path}: nothing reads the column {unknown[0]!r}; want {', '.join(known)}, so remove it")


def parse_classes(cell: str) -> frozenset[str]:
    """Parse a cell of `a_obj`: names joined by "_" ("-" is part of a name), without _NO_CLASSES; "h orse" is horse."""
    return frozenset(name.replace(" ", "") for name in cell.split("_")) - _NO_CLASSES


def read_labels(path: Path) -> tuple[str, ...]:
    """Return names by class id, background first, from a label2idx.json that counts from 0 or (redistributed) from 1.

    Raises UserError if it is missing, or if its ids are not consecutive, starting with the background.
    """
    try:
        ids = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; it names the classes, unpack it from AVSS") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; unpack it from AVSS again") from error
    if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
        raise UserError(f'{path}: want one object of names and ids, {{"background": 0, ...}}; unpack it again')
    names = sorted(ids, key=ids.get)
    numbers = [ids[name] for name in names]
    if not names or names[0] != "background" or numbers[0] not in (0, 1) or len(names) > CLASSES:
        raise UserError(
            f"{path}: want at most {CLASSES} names, the lowest id 0 or 1 and background's; got {len(names)} with "
            f"{names[:1]} as {numbers[:1]}; unpack it from AVSS again"
        )
    if numbers != list(range(numbers[0], numbers[0] + len(names))):
        raise UserError(f"{path}: ids are repeated or left out between {numbers[0]} and {numbers[-1]}; correct it")
    return tuple(names)


def find_avss_root(root: Path) -> Path | None:
    """Return the AVSS set that is `root` or lies beside it; None if there is none."""
    root = root.absolute()
    if (root / AVSS_TABLE).is_file():
        return root
    for table in sorted(root.parent.glob(f"*/{AVSS_TABLE}")):
        with suppress(UserError):  # another program's metadata.csv
            read_table(table, AVSS_COLUMNS)
            return table.parent
    return None


def avss_classes(root: Path, part: str) -> dict[str, frozenset[str]] | None:
    """Return classes of the clips of `part` (v1s or v1m) by uid and, if unique, by uid without times and by video.

    From the metadata of the AVSS set beside `root`; None if there is none.
    """
    avss = find_avss_root(root)
    if avss is None:
        return None
    rows = [row for row in read_table(avss / AVSS_TABLE, AVSS_COLUMNS) if row["label"] == part]
    classes_by_key: dict[str, frozenset[str] | None] = {}
    for row in rows:
        for key in {row["uid"].rsplit("_", 2)[0], row.get("vid", "")} - {row["uid"]}:
            classes_by_key[key] = None if key in classes_by_key else parse_classes(row["a_obj"])
    classes_by_key |= {row["uid"]: parse_classes(row["a_obj"]) for row in rows}
    return {key: value for key, value in classes_by_key.items() if value is not None}


def read_scenes(root: Path, fault: Fault = refused) -> dict[str, dict]:
    """Read scenes.csv of the set in `root`: fields of ClipRecord by clip; empty if there is none. Raises UserError for
    a malformed one.
    """
    path = root / "scenes.csv"
    rows = read_table(path, ("video_id", "sounding", "onscreen")) if path.is_file() else []
    return {
        row["video_id"]: {
            "sounding": frozenset(row["sounding"].split()),
            "onscreen": frozenset(row["onscreen"].split()),
            "sounding_by_second": _by_second(row.get("stamps"), path, fault),
            "complete": True,
        }
        for row in rows
    }


def _by_second(stamps: str | None, path: Path, fault: Fault) -> tuple[frozenset[str], ...] | None:
    """Return the classes that sound in each second. stamps: "stem|class|digits" joined by ";", 1 where it sounds."""
    if not stamps:
        return None
    parts = [stamp.split("|") for stamp in stamps.split(";")]
    if any(len(part) != 3 or len(part[2]) != len(parts[0][2]) for part in parts):
        return fault(f"{path}: {stamps[:60]!r} is not a list of stamps (stem|class|11010;...); write the set again")
    seconds = range(len(parts[0][2]))
    return tuple(frozenset(name for _, name, on in parts if name and on[second] == "1") for second in seconds)
