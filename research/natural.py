"""`python -m research natural`: score the open vocabulary on scenes of classes seen and not seen in training.

Rows: "shipped", the shipped checkpoint; "open", a run of the same recipe that holds some classes out of training, also
without any part of the method ("open-baseline") and with MIT only ("open-mit"); and shortened runs of this kind. Sets
(word_scores.py): `known`, new scenes of classes in all runs' training; `cross`, the same with other recordings;
`heldout`, scenes and recordings of held-out classes; `unnamed`, more such classes, for which the tagger has no name.
Each has a validation split, `known-val` and so on, for model choices: other scenes with separate backgrounds, and other
excerpts of the recordings (too few to split). "shipped" was trained on all classes and is scored only on the first two
sets, as are the rows of INFERENCE_ABLATIONS: the shipped model without one step or constant of inference.
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
from icf_avs.encoders.tagger_encoder import WordTagger
from icf_avs.encoders.taggers import load_tagger
from icf_avs.errors import UserError
from icf_avs.inference import multiscale, postprocess
from icf_avs.networks import evidence_prior
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
# Row -> ablation of the shipped checkpoint: module, attribute, and the value to patch in.
INFERENCE_ABLATIONS: dict[str, tuple[ModuleType, str, object]] = {
    **{
        f"no-{step.__name__.replace('_', '-')}": (postprocess, "STEPS", tuple(each for each in _STEPS if each != step))
        for step in (postprocess.segmenter_prior, postprocess.refine_edges, postprocess.relative_threshold)
    },
    "one-scale": (postprocess, "merge_scales", lambda large, small: large),
    "two-scales-always": (multiscale, "LARGE_OBJECT_AREA", 1e-6),
    "segmenter-odds-once": (evidence_prior, "_SEGMENTER_LOGIT_SCALE", 1.0),
    "no-contradiction": (evidence_prior, "_CONTRADICTION_SCALE", 0.0),
    "no-person-floor": (evidence_prior, "_PERSON_FLOOR", 1e-6),
}
_ALL_PARTS = ("mit", "sc", "cdcl")
# Row -> parts of the method. Rows in FULL_LENGTH run for all steps of the recipe, with one seed.
FULL_LENGTH: dict[str, tuple[str, ...]] = {"open": _ALL_PARTS, "open-baseline": (), "open-mit": ("mit",)}
ROWS = FULL_LENGTH | {"baseline": (), "mit": ("mit",), "all": _ALL_PARTS}
# set -> (split, recordings, held-out classes to query, scenes before those without a query are dropped)
SETS: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "known": ("test", "train", (), 240),
    "cross": ("test", "cross", (), 720),  # few classes have another recording
    "heldout": ("heldout", "train", HELD_OUT_NEAR, 480),
    "unnamed": ("heldout", "train", HELD_OUT_FAR, 240),
}
VAL_SETS = {
    name: (
        {"test": "val", "heldout": "heldout-val"}[split], recordings, kinds, count
    ) for name, (split, recordings, kinds, count) in SETS.items()
}  # fmt: skip
_VARIANTS = {"test": 24, "val": 20}  # per recording; the number also seeds their choice
COLUMNS = (
    "row", "seed", "test_set", "audio", "scenes", "miou", "f", "fpr", "steps", "minutes", "hardware", "revision",
)  # fmt: skip
SEEDS, STEPS, OUT = 3, 300, Path("runs/natural")  # defaults for shortened rows
ProgressFn = Callable[[str, int, int], None]  # what, done, total


def row_config(row: str, seed: int, steps: int) -> TrainConfig:
    """Return the recipe with the parts of a row, without the held-out classes. Those not in FULL_LENGTH are short."""
    recipe = natural()
    recipe = replace(recipe, words=replace(recipe.words, held_out=True))
    steps = recipe.steps if row in FULL_LENGTH else steps
    return replace(ablation(recipe, *ROWS[row]), name=row, steps=steps, seed=seed)


class Tests(NamedTuple):
    """Vocabulary; set -> (scenes, tagger outputs of the recordings); and tagger output for silence [C]."""

    words: Vocabulary
    sets: dict[str, tuple[OpenVocabFeatures, TaggerOutputs]]
    silence: Tensor


def load_tests(
    workers: int, report_progress: ProgressFn = lambda what, done, total: None, split: str = "test",
    held_out: bool = True,
) -> Tests:  # fmt: skip
    """Make or load from cache the sets of a split, "test" or "val"; held_out: include those of held-out classes."""
    recipe, catalog, recordings = natural(), load_open_vocab_stamps(), load_catalog()
    words = training_words(catalog, recipe.text_encoder, recipe.model.evidence.synonym_threshold)
    tagger = WordTagger(load_tagger(recipe.model.audio), words.words)
    image_format = image_spec(replace(recipe.spec, frames=1))
    sets = {}
    for name, (part, bank, unknown, count) in (SETS if split == "test" else VAL_SETS).items():
        if unknown and not held_out:
            continue
        scene_set = SceneSet(part, count, 0, DEFAULT, image_format)
        scenes = open_vocab_features(catalog, scene_set, workers, partial(report_progress, f"{name}: scenes"))
        kinds = unknown or catalog.training_classes
        sounds = tagger_outputs(
            recordings, bank, tagger, kinds, _VARIANTS[split], partial(report_progress, f"{name}: listening")
        )
        sets[name] = scenes, sounds
    return Tests(words, sets, tagger(torch.zeros(1, 1, recipe.spec.window))[0, 0])


def train_row(config: TrainConfig, folder: Path, workers: int, report: Report) -> tuple[SegmentationModel, float]:
    """Train or resume a row. Return the calibrated model and the training time in minutes."""
    data = OpenVocabData(config, None, workers, report)
    trainer = train_run(config, folder, data, build_model(config, data.classes), report)
    scores = data.validate(trainer.model)
    trainer.command = _command(config)
    save_checkpoint(trainer.model, folder / "model.safetensors", training_metadata(config, trainer, scores))
    return trainer.model, trainer.seconds / 60


def _command(config: TrainConfig) -> str:
    line = f"python -m research natural --rows {config.name}"
    return line if config.name in FULL_LENGTH else f"{line} --seeds {config.seed + 1} --steps {config.steps}"


def natural_command(args: argparse.Namespace) -> None:
    """Score the rows missing in the table, or the named rows, and update the table after each run."""
    if unknown := [row for row in args.rows or () if row not in RUNS.rows]:
        raise UserError(f"no row {unknown[0]!r}; there are: {', '.join(RUNS.rows)}")
    rows = args.rows or (SHIPPED, *ROWS)
    _check_options(args, rows)
    device = processes(args.device).device
    done = set() if args.rows else {run_of(line) for line in RUNS.read(args.results)}
    jobs = [
        (row, seed)
        for row in rows
        for seed in range(1 if row not in ROWS or row in FULL_LENGTH else args.seeds or SEEDS)
        if (row, str(seed), args.split == "val") not in done
    ]
    console = progress_console()
    with Progress(console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def report_progress(what: str, done: int, total: int, _: object = None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        tests = load_tests(os.cpu_count() or 1, report_progress, args.split, held_out=bool(ROWS.keys() & set(rows)))
        for (row, seed), lines in finished(jobs, partial(_run_row, args, tests, device, report_progress), 1):
            RUNS.replace(args.results, (row, str(seed), args.split == "val"), lines)
    console.print(f"wrote {args.results}")


def _run_row(
    args: argparse.Namespace, tests: Tests, device: torch.device, report_progress: ProgressFn, job: tuple[str, int]
) -> list[Line]:
    """Train a row unless it uses the shipped checkpoint, and score it."""
    row, seed = job
    if row not in ROWS:
        path, _ = find_checkpoint("natural")
        recipe = read_recipe(path)
        model, minutes, steps = load_checkpoint(path).to(device), recipe["minutes"], recipe["config"]["steps"]
    else:
        config = row_config(row, seed, args.steps or STEPS)
        folder = (args.out or OUT) / f"{row}-seed{seed}"
        report = partial(_report_training, report_progress, f"{row}, seed {seed}")
        model, minutes = train_row(config, folder, os.cpu_count() or 1, report)
        steps = config.steps
    run_cells = {"steps": str(steps), "minutes": f"{minutes:.1f}", "hardware": machine(device), "revision": revision()}
    suffix = "" if args.split == "test" else f"-{args.split}"
    lines = []
    for name, (scenes, sounds) in tests.sets.items():
        if row not in ROWS and SETS[name][2]:
            continue
        progress = partial(report_progress, f"scoring {row} {name}")
        with patch.object(*INFERENCE_ABLATIONS[row]) if row in INFERENCE_ABLATIONS else nullcontext():
            scores = word_scores(model, scenes, tests.words, sounds, tests.silence, progress=progress)
        key_cells = {"row": row, "seed": str(seed), "test_set": name + suffix}
        lines += [key_cells | {"audio": audio} | shown(values) | run_cells for audio, values in scores.items()]
    return lines


def _check_options(args: argparse.Namespace, rows: Sequence[str]) -> None:
    """Raise UserError for an option that has no effect on these rows."""
    if not ROWS.keys() & set(rows) and args.out is not None:
        raise UserError(f"row {SHIPPED} trains nothing and takes no --out")
    if not (ROWS.keys() - FULL_LENGTH) & set(rows):
        for option in ("seeds", "steps"):
            if getattr(args, option) is not None:
                raise UserError(f"rows {', '.join(rows)} have one seed and their own steps; they take no --{option}")


def run_of(line: Line) -> tuple[str, str, bool]:
    """Return row, seed, and whether the line belongs to the validation split."""
    return line["row"], line["seed"], line["test_set"].endswith("-val")


RUNS = Table(COLUMNS, (SHIPPED, *INFERENCE_ABLATIONS, *ROWS), run_of)


def _report_training(
    report_progress: ProgressFn, run: str, stage: str, done: int, total: int, values: dict[str, float]
) -> None:
    report_progress(f"{run}: {stage}", done, total)
