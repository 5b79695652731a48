"""Map a function over jobs, in threads or in processes; results are in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar

from icf_avs.console import track
from icf_avs.interrupts import interrupts_ignored

Job, Result = TypeVar("Job"), TypeVar("Result")


def in_threads(function: Callable[[Job], Result], jobs: Sequence[Job], description: str) -> Iterator[Result]:
    """Yield function(job) of each job, with a progress bar. On an error, jobs that have not started are cancelled."""
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
    try:
        yield from track(pool.map(function, jobs), len(jobs), description)
    finally:
        pool.shutdown(cancel_futures=True)


def in_processes(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Yield function(job) of each job, in separate processes if there is more than one worker. Jobs are pickled."""
    if workers <= 1 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    # Spawned, not forked: threads of torch and PyAV do not survive a fork.
    pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"), _one_thread)
    try:
        with interrupts_ignored():
            results = pool.map(function, jobs)
        yield from results
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
