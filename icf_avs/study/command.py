"""`icf study ablation`: all rows and seeds that the table lacks, spread over processes, each one resumable."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import traceback
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from icf_avs.allocator import keep_freed_memory
from icf_avs.device import find_device
from icf_avs.errors import UserError
from icf_avs.evaluate import default_sets
from icf_avs.interruption import interrupts_ignored
from icf_avs.stamps.training_data import StampsData
from icf_avs.study.rows import ROWS
from icf_avs.study.run import Job, Worker
from icf_avs.study.table import COLUMNS, add_run, read_table


def pending(table: Path, out: Path, rows: list[str], seeds: int, steps: int) -> tuple[list[Job], list[Job]]:
    """Teaching and row jobs that are still to do: main rows of all seeds first, seed by seed.

    A run of the table counts as done if its configuration is still the row's.
    """
    done = {(line["row"], line["seed"], line["config_hash"]) for line in read_table(table, COLUMNS)}
    jobs = []
    for name in sorted(rows, key=lambda name: not ROWS[name].main):
        for seed in range(seeds):
            row = ROWS[name]
            if (name, str(seed), row.digest(row.config(seed, steps))) not in done:
                jobs.append(Job(name, seed, steps))
    jobs.sort(key=lambda job: (not ROWS[job.row].main, job.seed))
    teach = [Job(None, seed, steps) for seed in sorted({job.seed for job in jobs})]
    return [job for job in teach if not (out / job.folder / "audio.safetensors").exists()], jobs


def study_command(args: argparse.Namespace) -> None:
    """Do what is pending, one process a core unless told otherwise, and write the tables run by run."""
    unknown = [name for name in args.rows or () if name not in ROWS]
    if unknown:
        raise UserError(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    out, table = args.out, args.results
    teach, jobs = pending(table, out, args.rows or list(ROWS), args.seeds, args.steps)
    console = Console(stderr=True)
    if not jobs:
        console.print(f"{table} has all of it; take out lines to run them again")
        return
    processes = args.jobs or (1 if find_device(args.device).type != "cpu" else os.cpu_count() or 1)
    keep_freed_memory()
    default_sets()  # before the processes, which would all write them
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        for job in {job.seed: job for job in jobs}.values():
            _render(job, processes, bar)
        for title, some in (("teaching ears", teach), ("runs", jobs)):
            task = bar.add_task(title, total=len(some))
            for job, result, failure in _spread(some, processes, args, bar):
                if failure:
                    raise UserError(f"run {job.folder} of the study failed: {failure}; mend it and start again")
                if result is not None:
                    add_run(table, result.line, result.parts)
                    console.print(f"{job.folder}: mIoU {result.line['miou']}, G {result.line['g_miou']}")
                bar.advance(task)
    console.print(f"wrote {table}; next: icf study summary")


def _render(job: Job, processes: int, bar: Progress) -> None:
    """Have the scenes' features in the cache, with all processes at it."""
    tasks: dict[str, object] = {}

    def report(stage: str, done: int, total: int, _: object) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(f"scenes of seed {job.seed}: {stage}", total=total)
        bar.update(tasks[stage], completed=done)

    config = ROWS[job.row].config(job.seed, job.steps)
    data = StampsData(config, None, processes, report)
    next(iter(data.validation()))


def _spread(jobs: list[Job], processes: int, args: argparse.Namespace, bar: Progress):
    """Yields (job, result, failure) as they come, from processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for job in jobs:
        todo.put(job)
    workers = []
    for _ in range(min(processes, len(jobs))):
        todo.put(None)
        workers.append(
            context.Process(target=_work, args=(todo, done, args.out, args.clips, processes, args.device), daemon=True)
        )
        with interrupts_ignored():
            workers[-1].start()
    status = {worker.pid: bar.add_task("starting", total=None) for worker in workers}
    left = len(jobs)
    try:
        while left:
            try:
                pid, job, result, failure = done.get(timeout=5)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    raise UserError("the processes of the study ended early (out of memory?); start it again") from None
                continue
            if isinstance(job, str):
                bar.update(status[pid], description=job)
                continue
            left -= 1
            yield job, result, failure
    finally:
        for worker in workers:
            worker.terminate()
        for task in status.values():
            bar.remove_task(task)


def _work(todo, done, out: Path, clips: int | None, processes: int, device: str) -> None:
    if processes > 1:
        torch.set_num_threads(1)
    keep_freed_memory()
    pid = os.getpid()

    def say(text: str) -> None:
        if not multiprocessing.parent_process().is_alive():  # killed outright, it could not stop its workers
            os._exit(1)
        done.put((pid, text, None, None))

    worker = Worker(out, clips, say, device)
    while (job := todo.get()) is not None:
        try:
            done.put((pid, job, worker.do(job), None))
        except UserError as error:
            done.put((pid, job, None, str(error)))
        except Exception as error:  # told in one line to the parent; the traceback goes to the log
            traceback.print_exc()
            done.put((pid, job, None, f"{type(error).__name__}: {error}"))
