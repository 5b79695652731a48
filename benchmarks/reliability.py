"""Table of all robustness checks: results/reliability.csv, one row per check and seed.

Each script replaces only its own rows, even while another script writes.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import shlex
import sys
from pathlib import Path

from icf_avs.atomic_io import write_text
from icf_avs.errors import UserError
from icf_avs.provenance import revision

COLUMNS = ("check", "tried", "failed", "seed", "command", "revision")


def save_row(path: Path, check: str, tried: int, failed: int, seed: int | str = "") -> None:
    """Replace the row of the same check and seed in the table at `path`; the row records the command of this run.

    Raises UserError if the file is not such a table.
    """
    cells = check, str(tried), str(failed), str(seed), _command(), revision()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until closed; the table file itself is replaced, so it cannot be locked
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted([row for row in _rows(path) if (row[0], row[3]) != (check, str(seed))] + [cells]))
        write_text(path, text.getvalue())
    finally:
        os.close(lock)


def _rows(path: Path) -> list[tuple[str, ...]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    if rows[:1] != [COLUMNS] or any(len(row) != len(COLUMNS) for row in rows):
        raise UserError(f"{path}: is not a table of {','.join(COLUMNS)}; name another --out")
    return rows[1:]


def _command() -> str:
    return shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
