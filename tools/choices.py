"""results/chosen.csv: number of choices made on each set of test scenes, counted from results/tried.csv.

The column `test scenes` of tried.csv lists the test scenes on which a choice was judged, as TABLE/ROW/SET separated by
blanks: `stamps/natural/cross` is the set cross in results/stamps.csv for natural. ROW is `all` if a choice concerns all
rows of a table. The cell is empty for a choice made on validation scenes (`--split val`).
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
    """Return the CSV text, a line per row and test set with scores. Raises UserError if a cell names unknown scores."""
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
