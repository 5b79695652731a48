"""Which scores are of scenes that choices were made on: results/chosen.csv, counted from results/tried.csv.

The column `test scenes` there says for each line on which test scenes it was judged, as TABLE/ROW/SET with a blank
between several: `stamps/natural/cross` is the set cross as results/stamps.csv has it for natural; ROW is `all` where a
choice concerns all rows of a table. A choice made on validation scenes (`--split val`) leaves the cell empty.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.score_tables import read_csv

COLUMNS = ("table", "row", "test set", "choices on its test scenes")
TRIED = "tried.csv"
_ALL = "all"
_ABLATION = (("ablation", _ALL, "s4"), ("ablation", _ALL, "ms3"))  # the study pools them


def chosen_table(results: Path) -> str:
    """The CSV text, a line for each row and test set that has scores. Raises UserError for a cell that names none."""
    scored = tuple(dict.fromkeys(_scored(results)))
    choices: Counter[tuple[str, ...]] = Counter()
    for number, row in enumerate(read_csv(results / TRIED)[1], 2):
        for name in row.get("test scenes", "").split():
            if (place := tuple(name.split("/"))) not in scored:
                known = ", ".join("/".join(place) for place in scored)
                raise UserError(f"{results / TRIED}, line {number}: no scores of {name}; there are {known}")
            choices[place] += 1
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((*place, choices[place]) for place in scored)
    return text.getvalue()


def _scored(results: Path) -> Iterable[tuple[str, str, str]]:
    for table, cell in (("stamps", "checkpoint"), ("natural", None)):
        rows = read_csv(results / f"{table}.csv")[1]
        yield from ((table, row[cell] if cell else _ALL, row["test_set"]) for row in rows if "-" not in row["test_set"])
    yield from _ABLATION
