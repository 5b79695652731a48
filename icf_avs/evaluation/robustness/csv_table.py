"""The table of robustness (CSV): one row a checkpoint, test set, kind of sound and subset ("category") of the clips.

Checkpoint, digest, path and data are as in results.py. Category is `all`, the super-category of the off-screen sound,
or `changed`; rows of the true sound on the same clips or frames stand beside it. Scores as in scores.py, empty where
none exists.
"""

from __future__ import annotations

import math
from pathlib import Path

from icf_avs.evaluation.robustness.runner import RobustnessResult
from icf_avs.evaluation.score_tables import UNKNOWN, Row, Scored, read_rows, replace_rows, revision

_SCORES = (
    *("miou", "f", "reference_miou", "reference_f", "fpr", "null"),
    *("drop_miou", "drop_f", "g_miou", "g_f"),
)
COLUMNS = ("checkpoint", *UNKNOWN, "test_set", "audio", "category", "clips", "frames", *_SCORES, "seed", "revision")


def rows_of(result: RobustnessResult, scored: Scored, test_set: str, seed: int) -> list[Row]:
    """The rows of one test set."""
    code, rows = revision(), []
    for (audio, category), values in result.scores.items():
        cells = ("" if math.isnan(values[name]) else f"{values[name]:.4f}" for name in _SCORES)
        counts = str(values["clips"]), str(values["frames"])
        row = (*scored, test_set, audio, category, *counts, *cells, str(seed), code)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def read_table(path: Path) -> list[Row]:
    """Rows of the table at `path`, none where there is no file. Raises UserError if it has other columns."""
    return read_rows(path, COLUMNS, "robustness")


def save_table(path: Path, rows: list[Row]) -> None:
    """Put `rows` in place of those of the same checkpoint, data and test set in the table at `path`; keep all
    others.
    """
    replace_rows(path, COLUMNS, read_table(path), rows, ("data", "test_set"))
