"""Model card (README.md next to the model file): description, training recipe and the scores in results/*.csv."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

from icf_avs.errors import UserError
from icf_avs.score_tables import COLUMNS, Row, read_csv

AUDIOS = ("true", "silence", "noise", "offscreen")
HEADINGS = ("checkpoint", "test set", "protocol", "clips", "mIoU", "F", "FPR")

HEAD = b"---\nlibrary_name: icf-avs\n"  # beginning of every card
_CARD = """---
library_name: icf-avs
tags:
- audio-visual-segmentation
- image-segmentation
---
# {name}

Audio-visual segmentation: segments, in every frame of a video, the pixels of what sounds. A model of icf-avs, an open
implementation of *Implicit Counterfactual Learning for Audio-Visual Segmentation* (ICF, ICCV 2025).

## Use

{use}

## How it was made

| | |
| --- | --- |
{facts}
## Scores

"""
_UNKNOWN = "None are known here; `icf evaluate CHECKPOINT` writes them to results/*.csv.\n"
_LEGEND = (
    "Under silence, noise and an off-screen sound nothing should be segmented: there, lower is better. "
    "Protocols: docs/PROTOCOLS.md of icf-avs.\n"
)


def model_card(name: str, recipe: dict[str, Any], use: str, results: Path, digest: str) -> str:
    """Return the card as Markdown. recipe: of the checkpoint; use: usage of the file; results: folder of tables written
    by `icf evaluate`, of which the rows with this checkpoint digest are shown. No number in the card is typed by hand.
    """
    facts = "".join(f"| {key} | {str(value).replace('|', chr(92) + '|')} |\n" for key, value in _recipe_facts(recipe))
    return _CARD.format(name=name, use=use, facts=facts) + _scores(digest, results)


def _scores(digest: str, results: Path) -> str:
    tables = []
    for path in sorted(results.glob("*.csv")):
        columns, rows = read_csv(path)
        if columns == COLUMNS and (rows := [row for row in rows if row["digest"] == digest]):
            try:
                tables.append(scores_table(rows))
            except ValueError as error:
                raise UserError(f"{path}: a score is not a number ({error}); fix the table") from error
    return f"{_LEGEND}\n" + "\n".join(tables) if tables else _UNKNOWN


def _recipe_facts(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts for the card, (name, value), as far as the recipe of the checkpoint contains them."""
    run, machine = (part if isinstance(part, dict) else {} for part in map(recipe.get, ("config", "hardware")))
    facts = {
        "command": recipe.get("command"), "data": recipe.get("data"), "licence": recipe.get("licence"),
        "seed": run.get("seed"), "minutes": recipe.get("minutes"), "processor": machine.get("processor"),
        "gpu": machine.get("gpu"), "torch": machine.get("torch"), "revision": recipe.get("revision"),
    }  # fmt: skip
    return [(key, str(value)) for key, value in facts.items() if value is not None]


def scores_table(rows: list[Row]) -> str:
    """Return rows of a score table as Markdown: one line per checkpoint, test set and protocol, with the four kinds of
    audio side by side. Raises ValueError for a score that is not a number.
    """
    negatives = [f"{score}, {audio}" for audio in AUDIOS[1:] for score in ("mIoU", "FPR")]
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        cells = itemgetter("checkpoint", "test_set", "protocol", "clips", "digest", "data")(row)
        groups.setdefault(cells, {})[row["audio"]] = row
    lines = []
    digests = {(row["checkpoint"], row["digest"]) for row in rows}
    folders = {(row["test_set"], row["data"]) for row in rows}
    for (checkpoint, test_set, protocol, clips, digest, data), by_audio in groups.items():
        name, set_name = _distinct(checkpoint, digest, digests), _distinct(test_set, data, folders)
        cells = [by_audio.get("true", {}).get(score, "") for score in ("miou", "f", "fpr")]
        cells += [by_audio.get(audio, {}).get(score, "") for audio in AUDIOS[1:] for score in ("miou", "fpr")]
        lines.append((name, set_name, protocol, clips, *(f"{float(cell):.3f}" if cell else "-" for cell in cells)))
    return markdown((*HEADINGS, *negatives), lines, left=3)


def _distinct(name: str, suffix: str, known: set[tuple[str, str]]) -> str:
    """Return the name, followed by `suffix` if another entry has the same name."""
    return f"{name} ({suffix or 'unknown'})" if sum(other == name for other, _ in known) > 1 else name


def markdown(headings: tuple[str, ...], lines: list[tuple[str, ...]], left: int) -> str:
    """Return a Markdown table; the first `left` columns are left-aligned, the others right-aligned."""
    rule = ("---",) * left + ("---:",) * (len(headings) - left)
    rows = (headings, rule, *lines)
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in rows)
