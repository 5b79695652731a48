"""`python -m research natural`: what an open vocabulary is worth, on scenes of classes that training knows or does not.

Rows: "shipped", the checkpoint as it is; "open", a run of the same recipe that keeps some classes from training, also
with no part of the method ("open-baseline") and with MIT alone ("open-mit"); and such runs cut short. The sets
(word_scores.py): `known`, new scenes of classes that all runs know; `cross`, the same with other recordings; `heldout`,
scenes and recordings of classes that training was kept from; `unnamed`, more such classes, for which the tagger has no
name. Each has a validation split, `known-val` and so on, for choices: other scenes with backgrounds of their own, and
other moments of the recordings (there are too few to divide). "shipped" knows all classes and is scored on the first
two alone, as are the rows of WITHOUT: the same without one step or constant of inference.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest.mock import patch

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe, save_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.console import progress_console
from icf_avs.encoders.tagger_encoder import WordTagger, load_tagger
from icf_avs.errors import UserError
from icf_avs.inference import multiscale, postprocess
from icf_avs.networks.open_vocabulary_parts import combined_prior, segmenter_prior
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.provenance import revision
from icf_avs.synthetic.catalog import HELD_OUT_FAR, HELD_OUT_NEAR, load_catalog, load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_batches import Vocabulary
from icf_avs.synthetic.open_vocab_sampler import DEFAULT
from icf_avs.synthetic.scene_features import OpenVocabFeatures, SceneSet, open_vocab_features
from icf_avs.synthetic.tagger_cache import TaggerOutputs, tagger_outputs
from icf_avs.training.accelerator import processes
from icf_avs.training.composed_data import OpenVocabData, image_spec, training_words
from icf_avs.training.data_protocol import Report
from icf_avs.training.recipes import ablation, natural
from icf_avs.training.run import training_metadata
from icf_avs.training.trainer import build_model
from research.jobs import finished, machine, shown, train_run
from research.table import Line, Table
from research.word_scores import word_scores

SHIPPED = "shipped"
_STEPS = postprocess.STEPS
# Row -> what the shipped checkpoint does without: an attribute of a module, and its value then.
WITHOUT: dict[str, tuple[ModuleType, str, object]] = {
    **{
        f"no-{step.__name__.replace('_', '-')}": (postprocess, "STEPS", tuple(each for each in _STEPS if each != step))
        for step in (postprocess.segmenter_prior, postprocess.refine_edges, postprocess.relative_threshold)
    },
    "one-scale": (postprocess, "merge_scales", lambda large, small: large),
    "two-scales-always": (multiscale, "LARGE", 1e-6),
    "segmenter-odds-once": (segmenter_prior, "_SEGMENTER_LOGIT_SCALE", 1.0),
    "no-contradiction": (segmenter_prior, "_CONTRADICTION_SCALE", 0.0),
    "no-person-floor": (combined_prior, "_PERSON_FLOOR", 1e-6),
}
_WHOLE = ("mit", "sc", "cdcl")
# Row -> parts of the method. Those of LONG run as long as the recipe says, with one seed.
LONG: dict[str, tuple[str, ...]] = {"open": _WHOLE, "open-baseline": (), "open-mit": ("mit",)}
ROWS = LONG | {"baseline": (), "mit": ("mit",), "all": _WHOLE}
# set -> (split, recordings, held-out classes that are asked for, scenes before those without a question are left out)
SETS: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "known": ("test", "train", (), 240),
    "cross": ("test", "cross", (), 720),  # of few classes there is another recording
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
    """The recipe with the parts of a row, kept from what is tested and, but for those of LONG, cut short."""
    recipe = natural()
    recipe = replace(recipe, words=replace(recipe.words, held_out=True))
    steps = recipe.steps if row in LONG else steps
    return replace(ablation(recipe, *ROWS[row]), name=row, steps=steps, seed=seed)


class Tests(NamedTuple):
    """The vocabulary, set -> (scenes, what is heard of the recordings), and what is heard of silence [C]."""

    words: Vocabulary
    sets: dict[str, tuple[OpenVocabFeatures, TaggerOutputs]]
    silence: Tensor


def load_tests(
    workers: int, say: Say = lambda what, done, total: None, split: str = "test", held_out: bool = True
) -> Tests:
    """The sets of a split, "test" or "val", made or found in the cache; held_out: also those of held-out classes."""
    recipe, catalog, recordings = natural(), load_open_vocab_stamps(), load_catalog()
    words = training_words(catalog, recipe.text_encoder, recipe.model.evidence.synonym_threshold)
    hears = WordTagger(load_tagger(recipe.model.audio), words.words)
    pictures = image_spec(replace(recipe.spec, frames=1))
    sets = {}
    for name, (part, bank, unknown, count) in (SETS if split == "test" else VAL_SETS).items():
        if unknown and not held_out:
            continue
        wanted = SceneSet(part, count, 0, DEFAULT, pictures)
        scenes = open_vocab_features(catalog, wanted, workers, partial(say, f"{name}: scenes"))
        kinds = unknown or catalog.training_classes
        sounds = tagger_outputs(
            recordings, bank, hears, _VARIANTS[split], kinds, progress=partial(say, f"{name}: listening")
        )
        sets[name] = scenes, sounds
    return Tests(words, sets, hears(torch.zeros(1, 1, recipe.spec.window))[0, 0])


def train_row(config: TrainConfig, folder: Path, workers: int, report: Report) -> tuple[SegmentationModel, float]:
    """Train a row, or go on with it where it stopped; the calibrated model, and the minutes it took."""
    data = OpenVocabData(config, None, workers, report)
    trainer = train_run(config, folder, data, build_model(config, data.classes), report)
    scores = data.validate(trainer.model)
    trainer.command = _command(config)
    save_checkpoint(trainer.model, folder / "model.safetensors", training_metadata(config, trainer, scores))
    return trainer.model, trainer.seconds / 60


def _command(config: TrainConfig) -> str:
    line = f"python -m research natural --rows {config.name}"
    return line if config.name in LONG else f"{line} --seeds {config.seed + 1} --steps {config.steps}"


def natural_command(args: argparse.Namespace) -> None:
    """Score the rows that the table lacks, or that are named, and write it run by run."""
    if unknown := [row for row in args.rows or () if row not in RUNS.rows]:
        raise UserError(f"no row {unknown[0]!r}; there are: {', '.join(RUNS.rows)}")
    rows = args.rows or (SHIPPED, *ROWS)
    _refuse_idle(args, rows)
    device = processes(args.device).device
    done = set() if args.rows else {run_of(line) for line in RUNS.read(args.results)}
    jobs = [
        (row, seed)
        for row in rows
        for seed in range(1 if row not in ROWS or row in LONG else args.seeds or SEEDS)
        if (row, str(seed), args.split == "val") not in done
    ]
    console = progress_console()
    with Progress(console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def say(what: str, done: int, total: int, _: object = None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        tests = load_tests(os.cpu_count() or 1, say, args.split, held_out=bool(ROWS.keys() & set(rows)))
        for (row, seed), lines in finished(jobs, partial(_do, args, tests, device, say), 1):
            RUNS.replace(args.results, (row, str(seed), args.split == "val"), lines)
    console.print(f"wrote {args.results}")


def _do(args: argparse.Namespace, tests: Tests, device: torch.device, say: Say, job: tuple[str, int]) -> list[Line]:
    """Train a row unless it is the shipped checkpoint, and score it."""
    row, seed = job
    if row not in ROWS:
        path, _ = find_checkpoint("natural")
        recipe = read_recipe(path)
        model, minutes, steps = load_checkpoint(path).to(device), recipe["minutes"], recipe["config"]["steps"]
    else:
        config = row_config(row, seed, args.steps or STEPS)
        folder = (args.out or OUT) / f"{row}-seed{seed}"
        model, minutes = train_row(config, folder, os.cpu_count() or 1, partial(_told, say, f"{row}, seed {seed}"))
        steps = config.steps
    made = {"steps": str(steps), "minutes": f"{minutes:.1f}", "hardware": machine(device), "revision": revision()}
    suffix = "" if args.split == "test" else f"-{args.split}"
    lines = []
    for name, (scenes, sounds) in tests.sets.items():
        if row not in ROWS and SETS[name][2]:
            continue
        progress = partial(say, f"scoring {row} {name}")
        with patch.object(*WITHOUT[row]) if row in WITHOUT else nullcontext():
            scores = word_scores(model, scenes, tests.words, sounds, tests.silence, progress=progress)
        of_run = {"row": row, "seed": str(seed), "test_set": name + suffix}
        lines += [of_run | {"audio": audio} | shown(found) | made for audio, found in scores.items()]
    return lines


def _refuse_idle(args: argparse.Namespace, rows: Sequence[str]) -> None:
    """Raise UserError for an option that changes nothing for these rows."""
    if not ROWS.keys() & set(rows) and args.out is not None:
        raise UserError(f"row {SHIPPED} trains nothing and takes no --out")
    if not (ROWS.keys() - LONG) & set(rows):
        for option in ("seeds", "steps"):
            if getattr(args, option) is not None:
                raise UserError(f"rows {', '.join(rows)} have one seed and their own steps; they take no --{option}")


def run_of(line: Line) -> tuple[str, str, bool]:
    """Row, seed, and whether it is of the validation split."""
    return line["row"], line["seed"], line["test_set"].endswith("-val")


RUNS = Table(COLUMNS, (SHIPPED, *WITHOUT, *ROWS), run_of)


def _told(say: Say, run: str, stage: str, done: int, total: int, values: dict[str, float]) -> None:
    say(f"{run}: {stage}", done, total)
