"""Fill the tables of README.md and docs/*.md from results/*.csv: `python -m tools.fill_tables`.

`<!-- results:stamps protocol=strict -->` ... `<!-- /results -->` is filled from results/stamps.csv, with the rows whose
columns have the given values (`protocol=reference,strict`: either of these). A table of scores gets one line per
checkpoint, test set and protocol, with the four sounds side by side, and adds digest or folder to ambiguous names. A
table of speeds (benchmarks/) gets one line per pair; that of `python -m research natural` one line per row and test
set, averaged over seeds. Any other CSV is shown unchanged.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

from icf_avs.atomic_io import check_file, write_text
from icf_avs.checkpoint.model_card import markdown, scores_table
from icf_avs.errors import UserError
from icf_avs.score_tables import COLUMNS, Row, read_csv
from tools.checkpoint_table import checkpoint_table
from tools.choices import TRIED, chosen_table
from tools.model_zoo import model_zoo

OPENING = re.compile(r"^<!-- results:", re.M)  # only at the start of a line, so that prose may mention marks
MARKED = re.compile(
    r"^(<!-- results:(?P<name>[\w-]+)(?P<filters>(?: [\w-]+=[^\s]+)*) -->\n).*?^(<!-- /results -->)", re.S | re.M
)


def fill_documents(root: Path, check: bool = False) -> int:
    """Update results/checkpoints.csv, chosen.csv and models.csv and all tables below `root`, or with `check` only
    report stale ones.
    """
    if not (root / "README.md").is_file() or not (root / "results").is_dir():
        raise UserError(f"no README.md and results folder in {root}; run this in the project's folder")
    documents = (root / "README.md", *sorted((root / "docs").glob("*.md")))
    results = root / "results"
    checkpoints = root / "icf_avs" / "pretrained"
    generated = {results / "checkpoints.csv": checkpoint_table(checkpoints)}
    if (results / "bench.csv").is_file():
        generated[results / "models.csv"] = model_zoo(checkpoints, results)
    if (results / TRIED).is_file():
        generated[results / "chosen.csv"] = chosen_table(results)
    for path in () if check else (*generated, *documents):
        check_file(path, "project's folder")
    stale = 0
    for path, text in generated.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"{path.relative_to(root)} is stale: run `python -m tools.fill_tables`", file=sys.stderr)
        else:
            write_text(path, text)
    for path in documents:
        text = path.read_text(encoding="utf-8")
        renewed = fill(text, root / "results", path)
        if renewed == text:
            continue
        stale += 1
        if check:
            print(f"{path.relative_to(root)} is stale: run `python -m tools.fill_tables`", file=sys.stderr)
        else:
            write_text(path, renewed)
            print(f"renewed {path.relative_to(root)}")
    return 1 if check and stale else 0


def fill(text: str, results: Path, where: Path) -> str:
    """Return `text` with the tables between marks updated. UserError, naming `where`, if one cannot be filled."""
    if len(OPENING.findall(text)) != len(MARKED.findall(text)):
        raise UserError(f"{where}: a malformed `<!-- results:NAME -->`, or one without `<!-- /results -->`; fix it")

    def table(match: re.Match[str]) -> str:
        path = results / f"{match['name']}.csv"
        if not path.is_file():
            raise UserError(f"{where}: no {path}; write it with `icf evaluate`, or take the mark out")
        columns, rows = read_csv(path)
        for column, value in (item.split("=", 1) for item in match["filters"].split()):
            if column not in columns:
                raise UserError(f"{where}: {path} has no column {column!r}; it has {', '.join(columns)}")
            rows = [row for row in rows if row[column] in value.split(",")]
        if not rows:
            raise UserError(f"{where}: {path} has no row for {match[1].strip()}; fix the comment or run `icf evaluate`")
        try:
            lines = BLOCKS.get(columns, _plain_table)(columns, rows)
        except ValueError as error:
            raise UserError(f"{path}: a score is not a number ({error}); correct the table") from error
        return match[1] + lines + match[4]

    return MARKED.sub(table, text)


def _score_table(_: tuple[str, ...], rows: list[Row]) -> str:
    return scores_table(rows)


def _speed_table(_: tuple[str, ...], rows: list[Row]) -> str:
    """Table of ours against the reference. The machines and code revisions follow in a sentence below it."""
    lines = [
        (row["benchmark"], row["reference_name"], row["ours"], row["reference"], row["unit"], f"{row['ratio']}x")
        for row in rows
    ]
    table = markdown(("benchmark", "beside", "ours", "reference", "unit", "ratio"), lines, left=2)
    runs = dict.fromkeys((row["device"], row["threads"], row["revision"]) for row in rows)
    facts = "; ".join(f"{device}, threads: {threads}, revision {revision}" for device, threads, revision in runs)
    return f"{table}\n{facts}.\n"


def _natural_table(_: tuple[str, ...], rows: list[Row]) -> str:
    """Table of means over seeds, with standard deviations if there are several seeds."""
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row["row"], row["test_set"]), {}).setdefault(row["audio"], []).append(row)
    lines = []
    for key, by_sound in groups.items():
        cells = [
            _spread([float(row[score]) for row in by_sound[sound]]) if sound in by_sound else "-"
            for sound, score in WORD_SCORES
        ]
        seeds = {row["seed"] for some in by_sound.values() for row in some}
        steps = {row["steps"] for some in by_sound.values() for row in some}
        lines.append((*key, str(len(seeds)), "/".join(sorted(steps)), *cells))
    headings = [f"{'FPR' if score == 'fpr' else 'mIoU'}, {sound}" for sound, score in WORD_SCORES]
    table = markdown(("row", "test set", "seeds", "steps", *headings), lines, left=2)
    runs = dict.fromkeys((row["row"], row["hardware"], row["revision"]) for row in rows)
    facts = "; ".join(f"{name}: {hardware}, revision {revision}" for name, hardware, revision in runs)
    return f"{table}\n{facts}.\n"


def _spread(scores: list[float]) -> str:
    mean = f"{statistics.mean(scores):.3f}"
    return f"{mean} ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else mean


def _plain_table(columns: tuple[str, ...], rows: list[Row]) -> str:
    if len(rows) <= 2 and len(columns) > 6:  # transposed: one or two rows with many columns are easier to read
        names, facts = (row[columns[0]] for row in rows), columns[1:]
        return markdown(("", *names), [(fact, *(row[fact] for row in rows)) for fact in facts], left=1 + len(rows))
    return markdown(columns, [tuple(row[column] for column in columns) for row in rows], left=1)


SPEED_COLUMNS = ("benchmark", "ours", "reference", "reference_name", "ratio", "unit", "device", "threads", "revision")
WORD_COLUMNS = (
    "row", "seed", "test_set", "audio", "scenes", "miou", "f", "fpr", "steps", "minutes", "hardware", "revision",
)  # fmt: skip
WORD_SCORES = (
    ("true", "miou"), ("word", "miou"), ("offscreen", "miou"), ("absent-word", "miou"), ("absent-word", "fpr"),
    ("silence", "fpr"), ("noise", "fpr"),
)  # fmt: skip
# By the columns of a table; any other table is shown unchanged.
BLOCKS = {COLUMNS: _score_table, SPEED_COLUMNS: _speed_table, WORD_COLUMNS: _natural_table}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the tables of README.md and docs/*.md from results/*.csv.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a table is stale")
    try:
        sys.exit(fill_documents(Path.cwd(), parser.parse_args().check))
    except UserError as error:
        sys.exit(str(error))
