"""One run from its recipe to its checkpoint."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from icf_avs.checkpoint import save_checkpoint
from icf_avs.config import TrainConfig
from icf_avs.errors import UserError
from icf_avs.objective.objective import FINISHING, Weights
from icf_avs.results import hardware, revision, write_whole
from icf_avs.training.data import Report, training_data
from icf_avs.training.trainer import Trainer, build_model


def train(
    config: TrainConfig,
    folder: Path,
    *,
    source: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    workers: int = 2,
    report: Report = lambda *_: None,
) -> Path:
    """Run (or go on with) a training run; returns the path of its checkpoint, folder/NAME.safetensors.

    source    folder of the public set, or of the Tux Paint stamps (None: fetched)
    init      a checkpoint whose weights the run starts from (None: drawn from the seed)
    `folder` also gets last.pt (for resume) and metrics.jsonl (all terms, every tenth step). Raises UserError.
    Under several processes (`accelerate launch`) all of them call this; the first one writes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
    if not resume and (folder / "last.pt").exists():
        raise UserError(f"{folder}: holds a run already; go on with it with --resume, or choose another --out")
    begun = time.monotonic()
    data = training_data(config, source, workers, report)
    if not data.classes:  # nothing to name sounds by
        config = replace(config, teach_steps=0)
    trainer = Trainer(config, data, build_model(config, data.classes, init), folder)
    if resume:
        trainer.restore()
    trainer.seconds += time.monotonic() - begun
    fit(trainer, report)
    path = folder / f"{config.name}.safetensors"
    if trainer.accelerator.is_main_process:
        begun = time.monotonic()
        trainer.model.spec = config.final_spec
        scores = data.validate(trainer.model)
        trainer.seconds += time.monotonic() - begun
        save_checkpoint(trainer.model, path, recipe_of(config, trainer, scores))
    trainer.accelerator.wait_for_everyone()
    return path


def fit(trainer: Trainer, report: Report = lambda *_: None) -> None:
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
            if at % 10 == 0:
                row = {"step": at, "seconds": round(trainer.seconds, 1), **{k: round(v, 5) for k, v in values.items()}}
                log.write(json.dumps(row) + "\n")
                log.flush()
            if trainer.step % config.checkpoint_every == 0 or trainer.step == trainer.total:
                trainer.save()


def _forget_after(log: Path, step: int) -> None:
    """Take out the rows of steps that the run does again."""
    rows = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] < step]
    write_whole(log, "".join(kept))


def recipe_of(config: TrainConfig, trainer: Trainer, scores: dict[str, float]) -> dict[str, Any]:
    """What a checkpoint says of its making."""
    return {
        "command": f"icf train {config.name}",
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
