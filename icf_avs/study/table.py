"""The study's tables on disk: results/ablation.csv, one line a run, and results/ablation_sets.csv, its parts."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.results import read_csv, write_whole
from icf_avs.study.rows import ROWS

SCORES = (
    "miou",
    "f",
    "miou_silence",
    "miou_noise",
    "miou_offscreen",
    "fpr_silence",
    "fpr_noise",
    "fpr_offscreen",
    "g_miou",
)
COLUMNS = ("row", "seed", *SCORES, "steps", "minutes", "hardware", "config_hash", "revision")
PART_COLUMNS = ("row", "seed", "test_set", "candidates", "frames", *SCORES)
Line = dict[str, str]


def parts_path(table: Path) -> Path:
    """Where the parts of the runs in `table` stand."""
    return table.with_name(f"{table.stem}_sets.csv")


def read_table(path: Path, columns: tuple[str, ...]) -> list[Line]:
    """Lines of a table, none where there is no file. Raises UserError if it has other columns."""
    if not path.exists():
        return []
    found, lines = read_csv(path)
    if found != columns:
        raise UserError(f"{path} is no table of the study (columns {','.join(columns)}); name another --results")
    for line in lines:
        if line["row"] not in ROWS or not line["seed"].isdecimal() or len(line["seed"]) > 9:
            raise UserError(f"{path}: has no run {line['row'][:40]!r} of seed {line['seed'][:40]!r}; mend the table")
    return lines


def add_run(path: Path, line: Line, parts: list[Line]) -> None:
    """Put a run into both tables in place of an earlier one of its row and seed; rows stay in the study's order."""
    for file, columns, lines in ((parts_path(path), PART_COLUMNS, parts), (path, COLUMNS, [line])):
        kept = [old for old in read_table(file, columns) if (old["row"], old["seed"]) != (line["row"], line["seed"])]
        order = list(ROWS)
        whole = sorted(kept + lines, key=lambda item: (order.index(item["row"]), int(item["seed"])))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(whole)
        write_whole(file, text.getvalue())
