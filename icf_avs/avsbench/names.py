"""Names of the classes: from label2idx.json of AVSS, the categories of S4, or what one's own set says.

Public files disagree about the names and count from 0 or from 1, so they are always read from the set itself.
"""

from __future__ import annotations

import json
from pathlib import Path

from icf_avs.avsbench.own import is_own, own_names
from icf_avs.avsbench.pictures import CLASSES
from icf_avs.avsbench.tables import kinds, read_table
from icf_avs.errors import UserError

SEMANTIC_TABLE = "metadata.csv"
SEMANTIC_COLUMNS = ("uid", "split", "label", "a_obj")


def semantic_root(root: Path) -> Path | None:
    """The AVSS set that `root` is, or that lies beside it; None if there is none."""
    root = root.absolute()
    if (root / SEMANTIC_TABLE).is_file():
        return root
    beside = sorted(path.parent for path in root.parent.glob(f"*/{SEMANTIC_TABLE}") if _is_semantic(path))
    return beside[0] if beside else None


def _is_semantic(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return set(SEMANTIC_COLUMNS) <= set(file.readline().strip().split(","))
    except (OSError, UnicodeDecodeError):
        return False


def read_labels(path: Path) -> tuple[str, ...]:
    """Names by class id, background first, from a label2idx.json that counts from 0 or (as redistributed) from 1.

    Raises UserError if it is missing, or its ids are not all those from the background's on.
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
        raise UserError(f"{path}: ids are twice there or left out between {numbers[0]} and {numbers[-1]}; mend it")
    return tuple(names)


def class_names(root: Path) -> tuple[str, ...]:
    """Names of the classes of the set in `root`, without background: class id 1 is the first.

    Those of AVSS for AVSS and for an S4 or MS3 set that lies beside it; the categories of its table for an S4 set
    alone, in alphabetical order; none for MS3 alone. Raises UserError for a missing or inconsistent label2idx.json.
    """
    if is_own(root):
        return own_names(root)
    semantic = semantic_root(root)
    if semantic is not None:
        return read_labels(semantic / "label2idx.json")[1:]
    table = root / "s4_meta_data.csv"
    return tuple(sorted({row["category"] for row in read_table(table, ("category",))})) if table.is_file() else ()


def semantic_kinds(root: Path, part: str) -> dict[str, frozenset[str]] | None:
    """Kinds of the clips of `part` (v1s or v1m) by uid, by uid without times, and by video, where that is one clip.

    From the metadata of the AVSS set beside `root`; None if there is none.
    """
    semantic = semantic_root(root)
    if semantic is None:
        return None
    rows = [row for row in read_table(semantic / SEMANTIC_TABLE, SEMANTIC_COLUMNS) if row["label"] == part]
    found: dict[str, frozenset[str] | None] = {}
    for row in rows:
        for key in {row["uid"].rsplit("_", 2)[0], row.get("vid", "")} - {row["uid"]}:
            found[key] = None if key in found else kinds(row["a_obj"])
    found |= {row["uid"]: kinds(row["a_obj"]) for row in rows}
    return {key: value for key, value in found.items() if value is not None}
