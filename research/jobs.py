"""Runs of a study: train or resume each run, several at a time if there are several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import torch

from icf_avs.config import TrainConfig
from icf_avs.errors import UserError
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.provenance import hardware
from icf_avs.training.data_protocol import Report
from icf_avs.training.run import fit
from icf_avs.training.trainer import Trainer

Job = TypeVar("Job")
Result = TypeVar("Result")


def finished(jobs: Sequence[Job], work: Callable[[Job], Result], processes: int) -> Iterator[tuple[Job, Result]]:
    """Yield jobs and results as they finish, from `processes` processes of one thread, or from this one if 1.

    Raises UserError if a process dies. Exceptions of `work` are passed on.
    """
    keep_freed_memory()
    if processes == 1:
        yield from ((job, work(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_one_thread)
    try:
        waiting = {pool.submit(work, job): job for job in jobs}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as error:
        raise UserError("a process of the study ended early (out of memory?); start it again") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def train_run(
    config: TrainConfig, folder: Path, data: object, model: torch.nn.Module, report: Report, weights: object = None
) -> Trainer:
    """Train `model`, resuming from the last checkpoint in `folder` if there is one. weights: of the loss terms."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, data, model, folder)
    if weights is not None:
        trainer.train_module.weights = {"train": weights}
    if (folder / "last.pt").exists():
        trainer.restore()
    fit(trainer, report)
    return trainer


def machine(device: torch.device) -> str:
    """Describe the hardware of a run, for a table cell."""
    described, threads = hardware(device), torch.get_num_threads()
    return f"{described['gpu'] or described['processor']}, {threads} thread{'s' * (threads > 1)}"


def shown(values: dict[str, float | int | str]) -> dict[str, str]:
    """Format scores as table cells."""
    return {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in values.items()}
