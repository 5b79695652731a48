"""Tables of runs on disk (CSV). Lines of a run replace its earlier lines, and rows keep a fixed order."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icf_avs.atomic_io import write_text
from icf_avs.errors import UserError
from icf_avs.score_tables import read_csv

Line = dict[str, str]


def row_and_seed(line: Line) -> tuple[str, ...]:
    """Return the row and seed of a line, which identify its run."""
    return line["row"], line["seed"]


@dataclass(frozen=True)
class Table:
    """columns: of the file. rows: allowed values of the column `row`, in order. run: identifies a line's run."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    run: Callable[[Line], tuple] = row_and_seed

    def read(self, path: Path) -> list[Line]:
        """Return the lines of the table at `path`, none without file. Raises UserError for another kind of table."""
        if not path.exists():
            return []
        columns, lines = read_csv(path)
        if columns != self.columns:
            raise UserError(f"{path} is not a table of these runs (columns {','.join(self.columns)}); name another")
        for line in lines:
            if line["row"] not in self.rows or not line["seed"].isdecimal() or len(line["seed"]) > 9:
                raise UserError(f"{path}: has no run {line['row'][:40]!r} of seed {line['seed'][:40]!r}; fix the table")
        return lines

    def replace(self, path: Path, run: tuple, lines: list[Line]) -> None:
        """Replace the lines of a run in the table at `path` by `lines`."""
        kept = [line for line in self.read(path) if self.run(line) != run]
        whole = sorted(kept + lines, key=lambda line: (self.rows.index(line["row"]), int(line["seed"])))
        write_text(path, csv_text(self.columns, whole))


def csv_text(columns: tuple[str, ...], lines: list[Line]) -> str:
    """Return the text of a table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
