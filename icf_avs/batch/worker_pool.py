"""Workers as processes of this machine, each with a pipe of its own, so that it is known which video a dead one had."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from icf_avs.batch.job import Job, Settings, loaded, segment_job
from icf_avs.console import set_verbosity, verbosity
from icf_avs.errors import UserError


@dataclass
class _Worker:
    process: BaseProcess
    job: Job | None = None  # None while it loads the model


def run_processes(jobs: list[Job], count: int, work: Path) -> Iterator[tuple[Job, str | None]]:
    """Do jobs in at most `count` processes; yields each with None or the line that says why it failed, as they end.

    A process that dies fails the one video that it had, and another takes its place. Raises UserError if none gets as
    far as its first video.
    """
    todo = deque(jobs)
    workers: dict[Connection, _Worker] = {}
    try:
        for _ in range(min(count, len(jobs))):
            _start(workers, jobs[0].settings, work)
        while workers:
            for pipe in wait(list(workers)):
                worker = workers[pipe]
                try:
                    error = pipe.recv()
                except (EOFError, OSError):
                    del workers[pipe]
                    pipe.close()
                    worker.process.join()
                    if worker.job is not None:
                        if todo:
                            _start(workers, worker.job.settings, work)
                        yield worker.job, _crash_message(worker)
                    continue
                ended, worker.job = worker.job, todo.popleft() if todo else None
                _send(pipe, worker.job)
                if worker.job is None:
                    del workers[pipe]
                    worker.process.join()
                    pipe.close()
                if ended is not None:
                    yield ended, error
        if todo:
            raise UserError("the processes ended while they loaded the model (out of memory?); try fewer --jobs")
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for pipe, worker in workers.items():
            worker.process.join()
            pipe.close()


def _start(workers: dict[Connection, _Worker], settings: Settings, work: Path) -> None:
    context = multiprocessing.get_context("spawn")  # threads of torch and FFmpeg do not survive a fork
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, settings, work, verbosity()), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    workers[pipe] = _Worker(process)


def _send(pipe: Connection, job: Job | None) -> None:
    with suppress(OSError):  # it died just now: the next read of the pipe shows it
        pipe.send(job)


def _crash_message(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    why = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return str(UserError(f"{worker.job.video}: the process that worked on it {why} (out of memory?)"))


def _work(pipe: Connection, settings: Settings, work: Path, level: int) -> None:
    set_verbosity(level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    parent = multiprocessing.parent_process()

    def go_on(done: int, total: int) -> None:
        if not parent.is_alive():  # killed outright, it could not end its workers
            os._exit(1)

    loaded(settings.checkpoint, settings.device)
    try:
        pipe.send(None)
        while (job := pipe.recv()) is not None:
            pipe.send(segment_job(job, work, go_on))
    except (EOFError, OSError):  # the parent is gone
        return
