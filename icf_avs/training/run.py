"""One training run, from recipe to checkpoint.

Errors end it with one line: full disk, missing data, out of memory, Ctrl-C. The last checkpoint is kept.
"""

from __future__ import annotations

import errno
import json
import math
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from icf_avs.atomic_io import check_folder, write_text
from icf_avs.checkpoint.serialization import read_recipe, save_checkpoint
from icf_avs.config import SAMPLE_RATES, TrainConfig
from icf_avs.errors import UserError
from icf_avs.interrupts import Interrupted, Interruption
from icf_avs.networks.guided_parts.losses import HIGHRES_WEIGHTS, GuidedLossWeights
from icf_avs.provenance import hardware, revision
from icf_avs.training.accelerator import check_processes, main_process_first, processes
from icf_avs.training.benchmark_data import BenchmarkData
from icf_avs.training.callbacks import Callbacks
from icf_avs.training.composed_data import OpenVocabData, StampsData
from icf_avs.training.data_protocol import Data, Report
from icf_avs.training.loggers import check_wandb
from icf_avs.training.trainer import Trainer, build_model

IN_PYTHON = "icf_avs.training.run.train, in Python"


def training_data(config: TrainConfig, source: Path | None, workers: int, report: Report) -> Data:
    """Return the data of a recipe. Raises UserError if they are missing."""
    if config.words is not None:
        return OpenVocabData(config, source, workers, report)
    if config.benchmark is None:
        return StampsData(config, source, workers, report)
    return BenchmarkData(config, source, workers)


def train(
    config: TrainConfig,
    folder: Path,
    *,
    source: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    workers: int = 2,
    wandb: bool = False,
    device: str = "auto",
    report: Report = lambda *_: None,
    command: Sequence[str] = (),
) -> Path:
    """Start or resume a training run. Returns the path of its checkpoint, folder/NAME.safetensors.

    source    folder of the public set, or of the Tux Paint stamps (None: downloaded)
    init      checkpoint with the initial weights (None: drawn from the seed); not read on resume
    resume    continue the run in `folder`; it may have more steps than it began with
    workers   processes that render scenes, threads that read clips
    wandb     also log curves and images to Weights & Biases
    device    to run on (training/accelerator.py)
    command   arguments of the `icf` call, for the checkpoint and for the message on how to resume
    docs/TRAINING.md lists the files in `folder`. Raises UserError; raises Interrupted after Ctrl-C or SIGTERM, when the
    step is done and saved. With several processes (`accelerate launch`), all of them call this; the first one writes.
    """
    processes(device)
    check_start(config, folder, init, resume, wandb)
    begun = time.monotonic()
    with Interruption() as stop:
        with main_process_first():
            data = training_data(config, source, workers, report)
            if not data.classes:  # no class names to pretrain the audio encoder on
                config = replace(config, audio_pretrain_steps=0)
            model = build_model(config, data.classes, None if resume else init)
        trainer = Trainer(config, data, model, folder)
        is_main = trainer.accelerator.is_main_process
        launch = ["accelerate", "launch", "-m", "icf_avs"] if trainer.accelerator.num_processes > 1 else ["icf"]
        command_line = shlex.join([*launch, *(word for word in command if word != "--resume")])
        trainer.command = command_line if command else IN_PYTHON
        if resume:
            trainer.restore(longer=True)
        recipe, path = partial(training_metadata, config, trainer), folder / f"{config.name}.safetensors"
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
        resume_command = f"{command_line} --resume" if command else "train(..., resume=True)"
        with (
            as_user_errors(trainer, resume_command),
            Callbacks(trainer, recipe, wandb) if is_main else nullcontext() as callbacks,
        ):
            if is_main:
                write_text(folder / "recipe.json", json.dumps(recipe({}), indent=1) + "\n")
            trainer.seconds += time.monotonic() - begun
            fit(trainer, report, callbacks, stop)
            if is_main:
                begun = time.monotonic()
                trainer.model.spec = config.final_spec
                scores = data.validate(trainer.model)
                trainer.seconds += time.monotonic() - begun
                save_checkpoint(trainer.model, path, recipe(scores))
        trainer.accelerator.wait_for_everyone()
    return path


def check_start(config: TrainConfig, folder: Path, init: Path | None, resume: bool, wandb: bool) -> None:
    """Raise UserError for errors that are known before any work."""
    check_folder(folder)
    check_processes(config)
    audio, rate = config.model.audio, config.spec.sample_rate
    if rate != SAMPLE_RATES.get(audio, rate):
        raise UserError(f"spec.sample_rate is {rate}; audio encoder {audio} takes {SAMPLE_RATES[audio]}")
    last = folder / "last.pt"
    if resume and not last.exists():
        raise UserError(f"{last}: nothing to resume from; start without --resume")
    if not resume and last.exists():
        raise UserError(f"{folder}: holds a run already; go on with it with --resume, or choose another --out")
    if config.starts_from and init is None and not resume:
        raise UserError(f"recipe {config.name} goes on from {config.starts_from}: name its checkpoint with --init")
    if init is not None and not resume:
        read_recipe(init)
    if wandb:
        check_wandb()


def fit(
    trainer: Trainer,
    report: Report = lambda *_: None,
    callbacks: Callbacks | None = None,
    stop: Interruption | None = None,
) -> None:
    """Run the remaining steps; log and checkpoints go to the trainer's folder."""
    config, is_main = trainer.config, trainer.accelerator.is_main_process
    seconds_before, begun = trainer.seconds, time.monotonic()
    with ThreadPoolExecutor(1) as loader, _log(trainer) as log, stop.deferred() if stop else nullcontext():
        upcoming = loader.submit(trainer.batches, trainer.step)
        while trainer.step < trainer.total:
            batches, step, stage = upcoming.result(), trainer.step, config.stage(trainer.step)
            upcoming = loader.submit(trainer.batches, step + 1)
            values = trainer.train_step(*batches)
            trainer.seconds = seconds_before + time.monotonic() - begun
            pretraining_ended = stage == "pretrain" and trainer.maybe_end_pretraining(values["naming"])
            if pretraining_ended:
                upcoming = loader.submit(trainer.batches, trainer.step)
            last = trainer.step == trainer.total
            checkpoint_due = trainer.step % config.checkpoint_every == 0 or last
            if is_main:
                report("pretrain" if stage == "pretrain" else "train", trainer.step, trainer.total, values)
                if step % 10 == 0 or pretraining_ended or last:
                    _log_row(log, trainer, step, stage, values)
                    if callbacks:
                        callbacks.on_step(step, stage, values)
                if checkpoint_due and callbacks and stage != "pretrain" and (scores := callbacks.on_checkpoint(step)):
                    _log_row(log, trainer, step, "validation", scores)
            stopping = stop is not None and trainer.stop_requested(stop.asked)
            if is_main and (checkpoint_due or stopping):
                trainer.save()
            if stopping:
                raise Interrupted(stop.asked or signal.SIGTERM)


def _log(trainer: Trainer) -> AbstractContextManager[TextIO | None]:
    """Open metrics.jsonl, without rows of steps that will be repeated; None in processes that do not write."""
    if not trainer.accelerator.is_main_process:
        return nullcontext()
    path = trainer.folder / "metrics.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    write_text(path, "".join(row for row in rows if row.endswith("\n") and json.loads(row)["step"] < trainer.step))
    return open(path, "a", encoding="utf-8")


def _log_row(log: TextIO, trainer: Trainer, step: int, stage: str, values: dict[str, float]) -> None:
    row = {"step": step, "stage": stage, "seconds": round(trainer.seconds, 1)}
    finite = {name: round(value, 5) for name, value in values.items() if math.isfinite(value)}
    print(json.dumps(row | finite), file=log, flush=True)


def training_metadata(config: TrainConfig, trainer: Trainer, scores: dict[str, float]) -> dict[str, Any]:
    """Return the metadata of a checkpoint: how it was trained."""
    return {
        "command": trainer.command,
        "config": asdict(config),
        "weights": asdict(GuidedLossWeights()),
        "finishing weights": asdict(HIGHRES_WEIGHTS),
        "pretraining steps": trainer.pretrained_steps,
        "lengthened": trainer.lengthened,
        "validation": scores,
        "minutes": round(trainer.seconds / 60, 1),
        "processes": trainer.accelerator.num_processes,
        "hardware": hardware(trainer.accelerator.device),
        "revision": revision(),
        "data": trainer.data.origin,
        "licence": trainer.data.licence,
        **({"without": [part.part for part in trainer.model.missing]} if trainer.model.missing else {}),
    }


_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "ALLOC_FAILED")  # in the message of a RuntimeError


@contextmanager
def as_user_errors(trainer: Trainer, resume_command: str) -> Iterator[None]:
    """Convert OSError and failed allocations to UserError, which says what happened, at which step, and what to do.
    Interrupted gets such a message, too. resume_command: the command that resumes the run.
    """
    last = trainer.folder / "last.pt"

    def advice() -> str:
        return f"go on from {last} with --resume" if last.exists() else "start anew: no checkpoint had been kept yet"

    try:
        yield
    except Interrupted as stop:
        saved_message = f"stopped; {last} has step {trainer.step} of {trainer.total}; go on with: {resume_command}"
        message = saved_message if last.exists() else "stopped before the first step; nothing is kept"
        raise Interrupted(stop.number, message) from None
    except BrokenPipeError:  # the reader of the output is gone; not an error of the run
        raise
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "make room" if full else "check that the data and the run folder exist"
        raise UserError(f"{what}, at step {trainer.step}; {fix}, and {advice()}") from error
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(words in str(error) for words in _NO_MEMORY):
            raise
        message = str(error).partition("\n")[0].partition(" Tried")[0].rstrip(".") or "none is left"
        raise UserError(
            f"out of memory at step {trainer.step} ({message[:160]}); end other programs, or share the batch among "
            f"more processes (accelerate launch), and {advice()}"
        ) from error
