"""`icf study natural`: what an open vocabulary is worth, on word scenes of kinds that training knows and does not know.

Rows: "shipped", the checkpoint as it is; "open", a run of the same recipe that keeps some kinds from training, also
with no part of the method ("open-baseline") and with MIT alone ("open-mit"); and such runs cut short. The sets
(word_scores.py): `known`, new scenes of kinds that all runs know; `cross`, the same with other recordings of these
kinds; `heldout`, scenes and recordings of kinds that training was kept from; `unnamed`, more such kinds, for which the
tagger has no name: none can be heard as what it is. Each has a validation split, `known-val` and so on, for choices:
other scenes with backgrounds of their own, and other moments of the recordings (there are too few to share them out).
"shipped" knows all kinds and is scored on the first two alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from icf_avs.allocator import keep_freed_memory
from icf_avs.backbones.efficientat import load_efficientat
from icf_avs.backbones.heard_words import HeardWords
from icf_avs.checkpoint import load_checkpoint, read_recipe, save_checkpoint
from icf_avs.checkpoint_source import find_checkpoint
from icf_avs.config import EvidenceConfig, TrainConfig
from icf_avs.errors import UserError
from icf_avs.model.icf import ICF
from icf_avs.results import hardware, read_csv, revision, write_whole
from icf_avs.stamps.catalog import load_catalog
from icf_avs.stamps.heard_sounds import HeardSounds, heard_sounds
from icf_avs.stamps.word_batches import Words
from icf_avs.stamps.word_catalog import HELD_OUT_FAR, HELD_OUT_NEAR, load_word_catalog
from icf_avs.stamps.word_data import STRIDES, WordData, spec_of_pictures, training_words
from icf_avs.stamps.word_features import WordFeatures, WordSceneSet, word_features
from icf_avs.study.word_scores import word_scores
from icf_avs.training.data import Report
from icf_avs.training.processes import processes
from icf_avs.training.recipes import ablation, natural
from icf_avs.training.run import fit, recipe_of
from icf_avs.training.trainer import Trainer, build_model

SHIPPED = "shipped"
_WHOLE = ("mit", "sc", "cdcl")
# Row -> parts of the method. Those of LONG run as long as the recipe says, with one seed.
LONG: dict[str, tuple[str, ...]] = {"open": _WHOLE, "open-baseline": (), "open-mit": ("mit",)}
ROWS = LONG | {"baseline": (), "mit": ("mit",), "all": _WHOLE}
# set -> (split, recordings, held-out kinds that are asked for, scenes before those without a question are left out)
SETS: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "known": ("test", "train", (), 240),
    "cross": ("test", "cross", (), 720),  # of few kinds there is another recording
    "heldout": ("heldout", "train", HELD_OUT_NEAR, 480),
    "unnamed": ("heldout", "train", HELD_OUT_FAR, 240),
}
VAL_SETS = {
    name: (
        {"test": "val", "heldout": "heldout-val"}[split], recordings, kinds, count
    ) for name, (split, recordings, kinds, count) in SETS.items()
}  # fmt: skip
_VARIANTS = {"test": 24, "val": 20}  # of each recording; their number draws them
COLUMNS = (
    "row", "seed", "test_set", "audio", "scenes", "miou", "f", "fpr", "steps", "minutes", "hardware", "revision",
)  # fmt: skip
SEEDS, STEPS, OUT = 3, 300, Path("runs/natural")  # unless asked otherwise, of rows that are cut short
Say = Callable[[str, int, int], None]  # what, done, total


def row_config(row: str, seed: int, steps: int) -> TrainConfig:
    """The recipe with the parts of a row, kept from what is tested and, but for those of LONG, cut short. Without MIT
    there is no vocabulary to search evidence for.
    """
    recipe = natural()
    recipe = replace(recipe, words=replace(recipe.words, held_out=True))
    steps = recipe.steps if row in LONG else steps
    config = replace(ablation(recipe, *ROWS[row]), name=row, steps=steps, seed=seed)
    return config if "mit" in ROWS[row] else replace(config, model={**config.model, "evidence": None})


class Tests(NamedTuple):
    """The vocabulary, set -> (scenes, what is heard of the recordings), and what is heard of silence [C]."""

    words: Words
    sets: dict[str, tuple[WordFeatures, HeardSounds]]
    silence: Tensor


def load_tests(workers: int, say: Say = lambda what, done, total: None, split: str = "test") -> Tests:
    """The sets of a split, "test" or "val", made or found in the cache."""
    recipe, catalog, recordings = natural(), load_word_catalog(), load_catalog()
    words = training_words(catalog, recipe.text, EvidenceConfig(**recipe.model["evidence"]).akin)
    hears = HeardWords(load_efficientat(None, recipe.spec.sample_rate), words.words)
    pictures = spec_of_pictures(replace(recipe.spec, frames=1))
    sets = {}
    for name, (part, bank, unknown, count) in (SETS if split == "test" else VAL_SETS).items():
        wanted = WordSceneSet(part, count, spec=pictures, strides=STRIDES)
        scenes = word_features(catalog, wanted, workers, partial(say, f"{name}: scenes"))
        kinds = unknown or catalog.training_kinds
        sounds = heard_sounds(
            recordings, bank, hears, _VARIANTS[split], kinds, progress=partial(say, f"{name}: listening")
        )
        sets[name] = scenes, sounds
    return Tests(words, sets, hears(torch.zeros(1, recipe.spec.window))[0])


def train_row(config: TrainConfig, folder: Path, workers: int, report: Report) -> tuple[ICF, float]:
    """Train a row, or go on with it where it stopped; the calibrated model, and the minutes it took."""
    folder.mkdir(parents=True, exist_ok=True)
    data = WordData(config, None, workers, report)
    trainer = Trainer(config, data, build_model(config, data.classes), folder)
    if (folder / "last.pt").exists():
        trainer.restore()
    fit(trainer, report)
    scores = data.validate(trainer.model)
    save_checkpoint(trainer.model, folder / "model.safetensors", recipe_of(config, trainer, scores, _command(config)))
    return trainer.model, trainer.seconds / 60


def _command(config: TrainConfig) -> str:
    line = f"icf study natural --rows {config.name}"
    return line if config.name in LONG else f"{line} --seeds {config.seed + 1} --steps {config.steps}"


def natural_command(args: argparse.Namespace) -> None:
    """Score the rows that the table lacks, or that are named, and write it run by run."""
    unknown = [row for row in args.rows or () if row not in (SHIPPED, *ROWS)]
    if unknown:
        raise UserError(f"no row {unknown[0]!r}; there are: {', '.join((SHIPPED, *ROWS))}")
    rows = args.rows or (SHIPPED, *ROWS)
    _refuse_idle(args, rows)
    device = processes(args.device).device
    keep_freed_memory()
    workers, console = os.cpu_count() or 1, Console(stderr=True)
    suffix = "" if args.split == "test" else f"-{args.split}"
    done = {run_of(line) for line in read_lines(args.results)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def say(what: str, done: int, total: int, _: object = None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        tests = load_tests(workers, say, args.split)
        for row in rows:
            for seed in range(1 if row == SHIPPED or row in LONG else args.seeds or SEEDS):
                if not args.rows and (row, str(seed), bool(suffix)) in done:
                    continue
                if row == SHIPPED:
                    path, _ = find_checkpoint("natural")
                    recipe = read_recipe(path)
                    model, minutes, steps = (
                        load_checkpoint(path).to(device),
                        recipe["minutes"],
                        recipe["config"]["steps"],
                    )
                else:
                    tell = partial(_told, say, f"{row}, seed {seed}")
                    folder = (args.out or OUT) / f"{row}-seed{seed}"
                    config = row_config(row, seed, args.steps or STEPS)
                    model, minutes = train_row(config, folder, workers, tell)
                    steps = config.steps
                lines = [
                    {"row": row, "seed": str(seed), "test_set": name + suffix, "audio": audio}
                    | {key: f"{value:.4f}" if isinstance(value, float) else str(value) for key, value in scores.items()}
                    | {
                        "steps": str(steps),
                        "minutes": f"{minutes:.1f}",
                        "hardware": _machine(device),
                        "revision": revision(),
                    }
                    for name, (scenes, sounds) in tests.sets.items()
                    if row != SHIPPED or not SETS[name][2]
                    for audio, scores in word_scores(
                        model,
                        scenes,
                        tests.words,
                        sounds,
                        tests.silence,
                        progress=partial(say, f"scoring {row} {name}"),
                    ).items()
                ]
                add_lines(args.results, lines)
    console.print(f"wrote {args.results}")


def _refuse_idle(args: argparse.Namespace, rows: Sequence[str]) -> None:
    """Raise UserError for an option that changes nothing for these rows."""
    if set(rows) == {SHIPPED} and args.out is not None:
        raise UserError(f"row {SHIPPED} trains nothing and takes no --out")
    if set(rows) <= {SHIPPED, *LONG}:
        for option in ("seeds", "steps"):
            if getattr(args, option) is not None:
                raise UserError(f"rows {', '.join(rows)} have one seed and their own steps; they take no --{option}")


def read_lines(path: Path) -> list[dict[str, str]]:
    """Lines of the table, none where there is no file. Raises UserError for another table."""
    if not path.exists():
        return []
    columns, lines = read_csv(path)
    if columns != COLUMNS or any(line["row"] not in (SHIPPED, *ROWS) for line in lines):
        raise UserError(f"{path} is no table of `icf study natural`; name another --results")
    return lines


def run_of(line: dict[str, str]) -> tuple[str, str, bool]:
    """Row, seed, and whether it is of the validation split."""
    return line["row"], line["seed"], line["test_set"].endswith("-val")


def add_lines(path: Path, lines: list[dict[str, str]]) -> None:
    """Put the lines of one run into the table in place of an earlier one of its row, seed and split."""
    kept = [line for line in read_lines(path) if run_of(line) != run_of(lines[0])]
    order = (SHIPPED, *ROWS)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(kept + lines, key=lambda line: (order.index(line["row"]), int(line["seed"]))))
    write_whole(path, text.getvalue())


def _told(say: Say, run: str, stage: str, done: int, total: int, values: dict[str, float]) -> None:
    say(f"{run}: {stage}", done, total)


def _machine(device: torch.device) -> str:
    machine = hardware(device)
    return f"{machine['gpu'] or machine['processor']}, {torch.get_num_threads()} threads"
