"""results/bench.csv: one row per benchmark, ours against a reference that was run in turns with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from icf_avs.atomic_io import write_text
from icf_avs.errors import UserError


@dataclass(frozen=True)
class Row:
    """ours, reference: medians over the turns, in `unit`. ratio: median over the turns of how many times better ours
    is: reference / ours if less is better, ours / reference for rates per second.
    """

    benchmark: str
    ours: str
    reference: str
    reference_name: str
    ratio: str
    unit: str
    device: str
    threads: str
    revision: str


COLUMNS = tuple(field.name for field in fields(Row))


def read_rows(path: Path) -> list[Row]:
    """Return the rows of the table at `path`, none if it does not exist. Raises UserError if it has other columns."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if lines[:1] != [list(COLUMNS)] or any(len(line) != len(COLUMNS) for line in lines):
        raise UserError(f"{path} is not a table of benchmarks (columns {','.join(COLUMNS)}); name another --out")
    return [Row(*line) for line in lines[1:]]


def save_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace rows of the same benchmark, reference and device in the table at `path` by `rows`; keep the others."""
    rows = list(rows)
    replaced = {(row.benchmark, row.reference_name, row.device) for row in rows}
    kept = [row for row in read_rows(path) if (row.benchmark, row.reference_name, row.device) not in replaced]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(astuple, sorted(kept + rows, key=lambda row: (row.benchmark, row.reference_name, row.device))))
    write_text(path, text.getvalue())
