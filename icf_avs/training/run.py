"""One run from its recipe to its checkpoint."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from icf_avs.checkpoint import save_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.errors import UserError
from icf_avs.objective.objective import FINISHING, Weights
from icf_avs.results import hardware, revision, write_whole
from icf_avs.training.data import Report, training_data
from icf_avs.training.faults import told
from icf_avs.training.processes import first_alone
from icf_avs.training.trainer import Trainer, build_model
from icf_avs.training.watch import Watch


def train(
    config: TrainConfig,
    folder: Path,
    *,
    source: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    workers: int = 2,
    wandb: bool = False,
    report: Report = lambda *_: None,
) -> Path:
    """Run (or go on with) a training run; returns the path of its checkpoint, folder/NAME.safetensors.

    source    folder of the public set, or of the Tux Paint stamps (None: fetched)
    init      a checkpoint whose weights the run starts from (None: drawn from the seed)
    wandb     also send curves and pictures to Weights & Biases
    `folder` also gets last.pt (for resume), metrics.jsonl (all terms, every tenth step), recipe.json, and at every
    checkpoint a picture of a few validation clips (samples/STEP.png); best.safetensors is the best of these by the
    scores of validation clips. Raises UserError.
    Under several processes (`accelerate launch`) all of them call this; the first one writes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
    if not resume and (folder / "last.pt").exists():
        raise UserError(f"{folder}: holds a run already; go on with it with --resume, or choose another --out")
    begun = time.monotonic()
    with first_alone():
        data = training_data(config, source, workers, report)
        if not data.classes:  # nothing to name sounds by
            config = replace(config, teach_steps=0)
        model = build_model(config, data.classes, init)
    trainer = Trainer(config, data, model, folder)
    if resume:
        trainer.restore()
    recipe = partial(recipe_of, config, trainer)
    path = folder / f"{config.name}.safetensors"
    leads = trainer.accelerator.is_main_process
    with told(trainer), Watch(trainer, recipe, wandb) if leads else nullcontext() as watch:
        if leads:
            write_whole(folder / "recipe.json", json.dumps(recipe({}), indent=1) + "\n")
        trainer.seconds += time.monotonic() - begun
        fit(trainer, report, watch)
        if leads:
            begun = time.monotonic()
            trainer.model.spec = config.final_spec
            scores = data.validate(trainer.model)
            trainer.seconds += time.monotonic() - begun
            save_checkpoint(trainer.model, path, recipe(scores))
    trainer.accelerator.wait_for_everyone()
    return path


def fit(trainer: Trainer, report: Report = lambda *_: None, watch: Watch | None = None) -> None:
    """Do the steps that are left of a run; log and checkpoints go to the trainer's folder."""
    config, folder, leads = trainer.config, trainer.folder, trainer.accelerator.is_main_process
    if leads:
        _forget_after(folder / "metrics.jsonl", trainer.step)
    spent, begun = trainer.seconds, time.monotonic()
    with ThreadPoolExecutor(1) as loader, open(folder / "metrics.jsonl", "a", encoding="utf-8") as log:
        upcoming = loader.submit(trainer.batches, trainer.step)
        while trainer.step < trainer.total:
            batches, at, stage = upcoming.result(), trainer.step, config.stage(trainer.step)
            upcoming = loader.submit(trainer.batches, at + 1)
            values = trainer.advance(*batches)
            trainer.seconds = spent + time.monotonic() - begun
            if not leads:
                continue
            report("teach" if stage == "teach" else "learn", trainer.step, trainer.total, values)
            if at % 10 == 0 or trainer.step == trainer.total:
                _note(log, trainer, at, stage, values)
                if watch:
                    watch.terms(at, stage, values)
            if trainer.step % config.checkpoint_every == 0 or trainer.step == trainer.total:
                if watch and stage != "teach" and (scores := watch.look(at)):
                    _note(log, trainer, at, "validation", scores)
                trainer.save()


def _note(log: TextIO, trainer: Trainer, step: int, stage: str, values: dict[str, float]) -> None:
    row = {"step": step, "stage": stage, "seconds": round(trainer.seconds, 1)}
    log.write(json.dumps(row | {name: round(value, 5) for name, value in values.items()}) + "\n")
    log.flush()


def _forget_after(log: Path, step: int) -> None:
    """Take out the rows of steps that the run does again."""
    rows = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] < step]
    write_whole(log, "".join(kept))


def recipe_of(config: TrainConfig, trainer: Trainer, scores: dict[str, float]) -> dict[str, Any]:
    """What a checkpoint says of its making."""
    return {
        "command": f"icf train {config.name}" + (f" --seed {config.seed}" if config.seed else ""),
        "config": asdict(config),
        "weights": asdict(Weights()),
        "finishing weights": asdict(FINISHING),
        "validation": scores,
        "minutes": round(trainer.seconds / 60, 1),
        "processes": trainer.accelerator.num_processes,
        "hardware": hardware(),
        "revision": revision(),
        "data": trainer.data.origin,
        "licence": trainer.data.licence,
    }
