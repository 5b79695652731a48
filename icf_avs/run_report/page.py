"""A run as one HTML page that needs nothing but itself: no script, no other file, no connection."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from icf_avs.results import COLUMNS
from icf_avs.run_report.curves import curves
from icf_avs.run_report.record import RunRecord

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } img { max-width: 100%; } figure { display: inline-block; margin: 0 .8rem .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
td.number { text-align: right; white-space: nowrap; }
"""
_DEPTH = 8  # of settings in settings that are shown
_STAGES = {
    "teach": "the sounds are named",
    "learn": "the masks are learnt",
    "finish": "on larger pictures",
    "validation": "scores of a few validation clips",
}


def page(run: RunRecord) -> str:
    """The report; whatever comes out of files is escaped."""
    title = f"Training run {run.name}"
    config = run.recipe.get("config")
    config = config if isinstance(config, dict) else {}
    total = sum(config[part] for part in ("teach_steps", "steps", "finish") if isinstance(config.get(part), int))
    state = "Finished" if run.finished else "Not finished"
    done = f"{state}: {run.steps} of {total} steps." if total else f"{state}: {run.steps} steps."
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{done}</p>",
        "<h2>Scores</h2>",
        *_scores(run),
        "<h2>Curves</h2>",
        *_curves(run),
        "<h2>Example clips</h2>",
        *_pictures(run),
        "<h2>Recipe</h2>",
        _table(("", ""), _flat(run.recipe)) if run.recipe else "<p>No recipe is kept in the folder.</p>",
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _scores(run: RunRecord) -> Iterable[str]:
    if run.scores:
        yield "<p>Of the finished checkpoint, on all validation clips:</p>"
        yield _table(("score", "value"), _flat(run.scores))
    if run.best:
        step = escape(str(run.best.get("step", "?")))
        yield f"<p>Of best.safetensors, which is after step {step}, on a few validation clips:</p>"
        yield _table(("score", "value"), _flat(run.best.get("validation") or {}))
    for name, rows in run.tables.items():
        yield f"<p>{escape(name)}:</p>"
        yield _table(COLUMNS, [[row[column] or "" for column in COLUMNS] for row in rows])
    if not (run.scores or run.best or run.tables):
        yield "<p>None yet.</p>"


def _curves(run: RunRecord) -> Iterable[str]:
    if not run.stages:
        yield "<p>No step is logged yet.</p>"
        return
    yield f"<p>{escape('; '.join(f'{stage}: {_STAGES.get(stage, stage)}' for stage in run.stages))}. Across: steps.</p>"
    yield f'<p><img alt="Curves of every term" src="{_source("svg+xml", curves(run.stages).encode())}"></p>'
    last = [(stage, name, values[-1]) for stage, terms in run.stages.items() for name, (_, values) in terms.items()]
    yield "<details><summary>Last values</summary>"
    yield _table(("stage", "term", "value"), last) + "</details>"


def _pictures(run: RunRecord) -> Iterable[str]:
    if not run.pictures:
        yield "<p>None were kept.</p>"
        return
    yield "<p>Of each clip: the picture, below it the known mask, below that what the model marks.</p>"
    for step, picture in run.pictures.items():
        yield f'<figure><img alt="Clips after step {step}" src="{_picture(picture)}">'
        yield f"<figcaption>after step {step}</figcaption></figure>"


def _picture(picture: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=88)
    return _source("jpeg", data.getvalue())


def _source(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _flat(values: Any, name: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    """Nested settings as lines; names of what is inside are joined by dots."""
    if depth > _DEPTH:
        return [(name, "...")]
    if isinstance(values, dict) and values:
        pairs = ((f"{name}.{key}" if name else str(key), value) for key, value in values.items())
        return [line for key, value in pairs for line in _flat(value, key, depth + 1)]
    if isinstance(values, list):
        values = ", ".join(map(str, values))
    return [(name, "-" if values in ({}, "", None) else values)]


def _table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if any(headings) else ""}{body}</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.4g}</td>'
    return f"<td>{escape(str(value))}</td>"
