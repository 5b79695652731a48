"""What the folder of a run tells: its recipe, the terms of its losses, its scores, its pictures."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icf_avs.checkpoint import read_recipe
from icf_avs.errors import UserError
from icf_avs.results import Row, fits, read_rows

LARGEST = 2**26  # bytes of a table or log that is read
MOST = 10**9  # a step or a term beyond is none
Series = dict[str, tuple[list[int], list[float]]]  # term -> steps, values


@dataclass
class RunRecord:
    """A run, finished or not.

    recipe: what recipe.json or the checkpoint says. stages: "teach", "learn", "finish", "validation" -> curves.
    scores: the checkpoint's on validation clips. tables: CSV tables of scores in the folder, by file name.
    pictures: step -> uint8 [H,W,3], oldest first.
    """

    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Series] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    finished: bool = False

    @property
    def steps(self) -> int:
        """Steps done, as far as the log tells."""
        return max((steps[-1] + 1 for terms in self.stages.values() for steps, _ in terms.values()), default=0)


def read_run(folder: Path) -> RunRecord:
    """Raises UserError where there is no run, and for a log, recipe or picture of it that is damaged."""
    log = folder / "metrics.jsonl"
    if not log.is_file():
        raise UserError(f"{folder}: holds no run (no metrics.jsonl in it); name the --out of `icf train`")
    run = RunRecord(folder.resolve().name)
    if (folder / "recipe.json").is_file():
        run.recipe = _json(folder / "recipe.json")
    for path in sorted(folder.glob("*.safetensors")):
        recipe = read_recipe(path)
        if path.name == "best.safetensors":
            run.best = recipe
        else:
            run.recipe, run.name, run.finished = recipe, path.stem, True
            run.scores = recipe.get("validation") or {}
    run.stages = _stages(log)
    for path in sorted(folder.glob("*.csv")):
        if _is_scores(path):
            _text(path)
            run.tables[path.name] = read_rows(path)
    run.pictures = _pictures(folder / "samples")
    return run


def _stages(log: Path) -> dict[str, Series]:
    stages: dict[str, Series] = {}
    for number, line in enumerate(_text(log).splitlines(), 1):
        try:
            row = json.loads(line)
            stage = str(row.pop("stage", "teach" if "naming" in row else "learn"))  # early logs did not say
            step = int(row.pop("step"))
            if not 0 <= step < MOST:
                raise ValueError(f"step {step:.3g} is out of range")
            row.pop("seconds", None)
            values = {name: float(value) for name, value in row.items()}
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UserError(f"{log}: line {number} is damaged ({error}); take it out") from error
        for name, value in values.items():
            if abs(value) < MOST:  # false for NaN as well
                steps, found = stages.setdefault(stage, {}).setdefault(name, ([], []))
                steps.append(step)
                found.append(value)
    return stages


def _pictures(folder: Path) -> dict[int, np.ndarray]:
    """First, middle and last of the sheets: how it began, how it went on, how it is."""
    numbers = sorted(int(path.stem) for path in folder.glob("*.png") if path.stem.isdecimal())
    shown = sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]}) if numbers else []
    pictures = {}
    for number in shown:
        path = next(path for path in folder.glob("*.png") if path.stem.isdecimal() and int(path.stem) == number)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                if image.width * image.height > 2**24:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                pictures[number] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: no picture that can be shown ({error}); take it out") from error
    return pictures


def _is_scores(path: Path) -> bool:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return fits(tuple(next(csv.reader([file.readline(4096)]), ())))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); take it out") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged (no object); take it out")
    return found


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST >> 20} MB, so it is no file of a run; take it out")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged ({error}); take it out") from error
