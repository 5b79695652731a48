"""Score tables (CSV) of `icf evaluate`, and the JSON file of notes beside the main table on how scores were computed.

A checkpoint is identified by the `digest` of its file; `checkpoint` and `path` are its name and location. `data` is the
folder of the sets, "stamps" for the default ones. Scores are shares in [0, 1], empty if undefined. `fpr` is the share
of pixels segmented where nothing should be: over the frames with empty ground truth for the true sound, over all frames
for silence, noise and off-screen sound. `revision` is that of the evaluation code.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from icf_avs.atomic_io import check_file, write_text
from icf_avs.datasets.image_io import SIZE
from icf_avs.errors import UserError
from icf_avs.provenance import hardware, revision

if TYPE_CHECKING:
    import torch

Row = dict[str, str]
Scores = dict[str, dict[str, float]]  # protocol -> score -> value


class ScoredModel(NamedTuple):
    """The checkpoint and data of a score, which are the first cells of a row."""

    checkpoint: str
    digest: str
    path: str
    data: str

    def __str__(self) -> str:
        return f"{self.checkpoint} ({self.path}, digest {self.digest})"


@dataclass(frozen=True)
class ScoreTable:
    """Format of a score table. keys: columns; new rows replace those of the same checkpoint with equal keys."""

    what: str
    columns: tuple[str, ...]
    keys: tuple[str, ...]

    def read(self, path: Path) -> list[Row]:
        """Return the rows of the table at `path`, none if there is no file. UserError if its columns differ."""
        if not path.exists():
            return []
        columns, rows = read_csv(path)
        if columns != self.columns:
            raise UserError(
                f"{path} is not a table of {self.what} (columns {','.join(self.columns)}); name another --out"
            )
        return rows

    def save(self, path: Path, rows: list[Row]) -> None:
        """Replace rows with the same keys by `rows`, and keep all others."""

        def key(row: Row) -> tuple[str, ...]:
            return (row["digest"] or row["checkpoint"], *(row[cell] for cell in self.keys))

        replaced, text = set(map(key, rows)), io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([row for row in self.read(path) if key(row) not in replaced] + rows)
        write_text(path, text.getvalue())


COLUMNS = (*ScoredModel._fields, "test_set", "audio", "protocol", "miou", "f", "fpr", "clips", "seed", "revision")
SCORES = ScoreTable("scores", COLUMNS, ("data", "test_set", "protocol"))


@dataclass(frozen=True)
class ScoringSettings:
    """Scoring options that a user may choose. The defaults are those of the reference."""

    size: int | None = SIZE  # side of frames and masks in pixels; None: native size
    threshold: float = 0.5
    batch_size: int = 4  # clips

    def labels(self, test_set: str, protocol: str) -> tuple[str, str]:
        """Return the cells `test_set` and `protocol` for scores under these settings.

        A size other than 224 changes the test set: `s4-512`, `s4-native`. A batch size other than 4 or a threshold
        other than 0.5 changes the protocol if it affects it: `reference-b1-t0.4`, but `strict-t0.4`.
        """
        if self.size != SIZE:
            test_set += "-native" if self.size is None else f"-{self.size}"
        if self.batch_size != ScoringSettings.batch_size and protocol == "reference":
            protocol += f"-b{self.batch_size}"
        if self.threshold != ScoringSettings.threshold and not protocol.startswith("classes-argmax"):
            protocol += f"-t{self.threshold:g}"
        return test_set, protocol


DEFAULT_SETTINGS = ScoringSettings()


def score_rows(
    scores: dict[str, Scores], scored: ScoredModel, test_set: str, clips: int, seed: int, settings: ScoringSettings
) -> list[Row]:
    """Return the rows of one test set from the scores of each kind of audio. Rows that a non-default batch size or
    threshold does not affect are left out, since a run with the defaults writes them.
    """
    code, defaults, rows = revision(), ScoringSettings(size=settings.size), []
    for audio, protocols in scores.items():
        for protocol, values in protocols.items():
            labels = settings.labels(test_set, protocol)
            if settings == defaults or labels != defaults.labels(test_set, protocol):
                cells = (cell(values[key]) for key in ("miou", "f", "fpr"))
                row = (*scored, labels[0], audio, labels[1], *cells, str(clips), str(seed), code)
                rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def cell(score: float) -> str:
    """Format a score for a table; empty for NaN."""
    return "" if math.isnan(score) else f"{score:.4f}"


def read_csv(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Return the columns and rows of the table at `path`, without empty lines.

    Raises UserError if it cannot be read or a line has more or fewer cells than the heading.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            columns, *lines = [tuple(cells) for cells in csv.reader(file) if cells] or [()]
        for cells in lines:
            if len(cells) != len(columns):
                raise ValueError(f"a line of {len(cells)} cells below a heading of {len(columns)}")
        return columns, [dict(zip(columns, cells, strict=True)) for cells in lines]
    except (OSError, ValueError, csv.Error) as error:  # invalid UTF-8 is a ValueError
        raise UserError(f"{path}: cannot be read as a CSV table ({error}); restore it, or move it away") from error


def check_tables(out: Path) -> None:
    """Raise UserError unless the table `out` and its notes are writable and, if they exist, have the right format."""
    if out.suffix == ".json":
        raise UserError(f"{out}: the notes beside the table end in .json; name a .csv file for --out")
    check_file(out)
    check_file(out.with_suffix(".json"))
    SCORES.read(out)
    _notes(out.with_suffix(".json"))


def _notes(path: Path) -> dict[str, object]:
    try:
        notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(notes, dict):
            raise ValueError("it holds no object")
        return notes
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file of notes: {error}; move it away") from error


def save_notes(
    path: Path,
    scored: ScoredModel,
    test_set: str,
    settings: ScoringSettings,
    scores: dict[str, Scores],
    device: torch.device,
) -> None:
    """Save how the rows were computed, with all strict scores, in the JSON file at `path`.

    {"CHECKPOINT DIGEST DATA SET": {...}}, and "... SET reference-b1" under non-default settings.
    """
    test_set, protocol = settings.labels(test_set, "reference")
    key = f"{scored.checkpoint} {scored.digest} {scored.data} {test_set}"
    note = {
        "command": shlex.join(["icf", *sys.argv[1:]]),
        "reference_batch_size": settings.batch_size,
        "threshold": settings.threshold,
        "hardware": hardware(device),
        "strict": {
            audio: {key: None if math.isnan(value) else round(value, 4) for key, value in protocols["strict"].items()}
            for audio, protocols in scores.items()
        },
    }
    notes = _notes(path) | {key + (f" {protocol}" if protocol != "reference" else ""): note}
    write_text(path, json.dumps(notes, indent=1, sort_keys=True) + "\n")
