"""Workers as processes of this machine, each with a pipe of its own, so that it is known which video a dead one had."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from icf_avs.batch.job import Job, Settings, loaded, segment_job
from icf_avs.console import set_verbosity, verbosity
from icf_avs.errors import UserError


def run_processes(jobs: list[Job], count: int, work: Path) -> Iterator[tuple[Job, str | None]]:
    """Do jobs in at most `count` processes; yields each with None or the line that says why it failed, as they end.

    A process that dies fails the one video that it had, and another takes its place. Raises UserError if none gets as
    far as its first video.
    """
    todo = deque(jobs)
    workers: dict[Connection, tuple[BaseProcess, Job | None]] = {}  # no job while it loads the model
    context = multiprocessing.get_context("spawn")  # threads of torch and FFmpeg do not survive a fork

    def start() -> None:
        pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, jobs[0].settings, work, verbosity()), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        workers[pipe] = process, None

    try:
        for _ in range(min(count, len(jobs))):
            start()
        while workers:
            for pipe in wait(list(workers)):
                process, job = workers.pop(pipe)
                try:
                    error = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    pipe.close()
                    if job is not None:
                        if todo:
                            start()
                        yield job, _crash_message(job, process)
                    continue
                upcoming = todo.popleft() if todo else None
                with suppress(OSError):  # it died just now: the next read of the pipe shows it
                    pipe.send(upcoming)
                if upcoming is not None:
                    workers[pipe] = process, upcoming
                else:
                    process.join()
                    pipe.close()
                if job is not None:
                    yield job, error
        if todo:
            raise UserError("the processes ended while they loaded the model (out of memory?); try fewer --jobs")
    finally:
        for process, _ in workers.values():
            process.terminate()
        for pipe, (process, _) in workers.items():
            process.join()
            pipe.close()


def _crash_message(job: Job, process: BaseProcess) -> str:
    code = process.exitcode or 0
    why = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return str(UserError(f"{job.video}: the process that worked on it {why} (out of memory?)"))


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
