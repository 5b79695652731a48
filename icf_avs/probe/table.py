"""The table of a probe (CSV): one row a checkpoint, test set, kind of sound and subset ("category") of the clips.

Category is `all`, the super-category of the off-screen sound, or `changed`; rows of the true sound on the same clips
or frames stand beside it. Scores as in scores.py, empty where none exists.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.probe.runner import SetProbe
from icf_avs.results import read_csv, revision, write_whole

_SCORES = (
    *("miou", "f", "reference_miou", "reference_f", "fpr", "null"),
    *("drop_miou", "drop_f", "g_miou", "g_f"),
)
COLUMNS = ("checkpoint", "test_set", "audio", "category", "clips", "frames", *_SCORES, "seed", "revision")
Row = dict[str, str]


def rows_of(probe: SetProbe, checkpoint: str, test_set: str, seed: int) -> list[Row]:
    """The rows of one test set."""
    code, rows = revision(), []
    for (audio, category), values in probe.scores.items():
        cells = ("" if math.isnan(values[name]) else f"{values[name]:.4f}" for name in _SCORES)
        counts = str(values["clips"]), str(values["frames"])
        row = (checkpoint, test_set, audio, category, *counts, *cells, str(seed), code)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def read_table(path: Path) -> list[Row]:
    """Rows of the table at `path`. Raises UserError if it has other columns."""
    columns, rows = read_csv(path)
    if columns != COLUMNS:
        raise UserError(f"{path} is no table of a probe (columns {','.join(COLUMNS)}); name another --out")
    return rows


def save_table(path: Path, rows: list[Row]) -> None:
    """Put `rows` in place of those of the same checkpoint and test set in the table at `path`; keep all others."""
    replaced = {(row["checkpoint"], row["test_set"]) for row in rows}
    old = read_table(path) if path.exists() else []
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([row for row in old if (row["checkpoint"], row["test_set"]) not in replaced] + rows)
    write_whole(path, text.getvalue())
