"""`icf compare`: runs side by side, as a table on the terminal and as a page with their curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from icf_avs.atomic_io import check_file, write_text
from icf_avs.errors import UserError

Curve = list[tuple[int, float]]  # step, value
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#f0e442")
WIDTH, HEIGHT = 300, 160  # of a plot, in pixels


@dataclass(frozen=True)
class Run:
    """One training run. settings: of its recipe, by dotted name; curves: every logged term; validation: the latest
    scores on its validation clips; step, minutes: its progress.
    """

    name: str
    settings: dict[str, Any]
    curves: dict[str, Curve]
    validation: dict[str, float]
    step: int
    minutes: float


def read_run(folder: Path) -> Run:
    """Read a run folder of `icf train`, finished or not. Raises UserError if it is none, or a line cannot be read."""
    lines = _lines(folder / "metrics.jsonl")
    try:
        settings = dict(_flat(json.loads(_text(folder / "recipe.json"))["config"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'recipe.json'}: cannot be read ({error}); name a folder of `icf train`") from error
    curves: dict[str, Curve] = {}
    validation: dict[str, float] = {}
    for line in lines:
        scored = line["stage"] == "validation"
        values = {name: value for name, value in line.items() if name not in ("step", "stage", "seconds")}
        validation = values if scored else validation
        for name, value in values.items():
            curves.setdefault("validation: " * scored + name, []).append((line["step"], value))
    return Run(folder.name, settings, curves, validation, lines[-1]["step"] + 1, lines[-1]["seconds"] / 60)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name a folder of `icf train`") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines; a last line that is still being written is skipped."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
            numbers = {name: float(value) for name, value in row.items() if name != "stage"}
            rows.append({**numbers, "step": int(row["step"]), "stage": str(row["stage"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a line of a training log ({error})") from error
    if not rows:
        raise UserError(f"{path}: holds no step yet")
    return rows


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield from _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]


def differing(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which the runs differ, except their names."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name != "name")
    return [name for name in names if len({json.dumps(run.settings.get(name)) for run in runs}) > 1]


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows: progress of each run, its latest validation scores, the settings that differ."""
    scores = list(dict.fromkeys(name for run in runs for name in run.validation))
    settings = differing(runs)
    rows = []
    for run in runs:
        validation = [f"{run.validation[name]:.4f}" if name in run.validation else "" for name in scores]
        cells = [str(run.settings[name]) if name in run.settings else "" for name in settings]
        rows.append([run.name, str(run.step), f"{run.minutes:.1f}", *validation, *cells])
    return ["run", "steps", "minutes", *scores, *settings], rows


def page(runs: Sequence[Run]) -> str:
    """Return the table and a plot of each term as one HTML file without scripts."""
    heading, rows = table(runs)
    cells = ["".join(f"<th>{escape(name)}</th>" for name in heading)]
    for number, row in enumerate(rows):
        mark = f'<td style="color:{COLOURS[number % len(COLOURS)]}">■ {escape(row[0])}</td>'
        cells.append(mark + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]))
    terms = dict.fromkeys(term for run in runs for term in run.curves)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Runs compared</title>"
        "<style>body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;display:block;overflow-x:auto}"
        "td,th{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:left;white-space:nowrap}"
        "figure{display:inline-block;margin:1em 1em 0 0}</style><h1>Runs compared</h1>"
        f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
        f"{''.join(_plot(term, runs) for term in terms)}</html>\n"
    )


def _plot(term: str, runs: Sequence[Run]) -> str:
    """Plot one term of all runs over their steps."""
    points = [point for run in runs for point in run.curves.get(term, [])]
    last, low, high = max(step for step, _ in points), *(pick(value for _, value in points) for pick in (min, max))
    across, up = WIDTH / max(last, 1), HEIGHT / ((high - low) or 1)
    lines = "".join(
        f"<polyline fill='none' stroke-width='1.5' stroke='{COLOURS[number % len(COLOURS)]}' points='"
        + " ".join(f"{step * across:.1f},{(high - value) * up:.1f}" for step, value in run.curves[term])
        + "'/>"
        for number, run in enumerate(runs)
        if term in run.curves
    )
    return (
        f"<figure><figcaption>{escape(term)}: {low:.4g} to {high:.4g}, {last} steps</figcaption>"
        f"<svg width='{WIDTH}' height='{HEIGHT}' viewBox='-2 -2 {WIDTH + 4} {HEIGHT + 4}' role='img'>"
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='none' stroke='#ccc'/>{lines}</svg></figure>"
    )


def compare_command(folders: Sequence[Path], out: Path | None) -> None:
    """Print the table; out: also write the page. Raises UserError for a folder that is no run."""
    from rich.console import Console
    from rich.table import Table

    if out is not None:
        check_file(out)
    runs = [read_run(folder) for folder in folders]
    heading, rows = table(runs)
    shown = Table(*heading)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
    if out is not None:
        write_text(out, page(runs))
        print(f"{out}: the table and the curves")
