"""The card of a model (README.md beside its file): what it is, how it was made and the scores in results/*.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icf_avs.model_card import recipe_facts
from icf_avs.report import fill
from icf_avs.results import COLUMNS, read_csv

HEAD = b"---\nlibrary_name: icf-avs\n"  # how every card begins
_CARD = """---
library_name: icf-avs
tags:
- audio-visual-segmentation
- image-segmentation
---
# {name}

Audio-visual segmentation: marks, in every frame of a video, the pixels of what sounds. A model of icf-avs, an open
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
    "Under silence, noise and an off-screen sound nothing should be marked: there, lower is better. "
    "Protocols: docs/PROTOCOLS.md of icf-avs.\n"
)


def model_card(name: str, recipe: dict[str, Any], use: str, results: Path, digest: str) -> str:
    """Markdown. recipe: of the checkpoint; use: how the file is used; results: folder of tables that `icf evaluate`
    writes, whose rows of the checkpoint with that digest are shown. No number in it is typed.
    """
    facts = "".join(f"| {key} | {str(value).replace('|', chr(92) + '|')} |\n" for key, value in recipe_facts(recipe))
    return _CARD.format(name=name, use=use, facts=facts) + _scores(digest, results)


def _scores(digest: str, results: Path) -> str:
    tables = [path.stem for path in sorted(results.glob("*.csv")) if _tells_of(path, digest)]
    marks = "\n".join(f"<!-- results:{table} digest={digest} -->\n<!-- /results -->\n" for table in tables)
    filled = fill(marks, results, Path("README.md"))
    text = "\n".join("" if line.startswith("<!--") else line for line in filled.splitlines())
    return f"{_LEGEND}{text}\n" if tables else _UNKNOWN


def _tells_of(path: Path, digest: str) -> bool:
    columns, rows = read_csv(path)
    return columns == COLUMNS and any(row["digest"] == digest for row in rows)
