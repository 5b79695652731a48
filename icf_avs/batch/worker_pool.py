"""Local worker processes with one pipe each, so that the video of a dead process is known."""

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

from icf_avs.batch.job import Job, JobSettings, cached_segmenter, segment_job
from icf_avs.console import set_verbosity, verbosity
from icf_avs.errors import UserError


def run_processes(jobs: list[Job], count: int, scratch_dir: Path) -> Iterator[tuple[Job, str | None]]:
    """Run jobs in at most `count` processes; yield each job, as it ends, with None or one line on its failure.

    If a process dies, only the video that it was processing fails, and a new process is started. Raises UserError if
    all processes die before their first video.
    """
    todo = deque(jobs)
    workers: dict[Connection, tuple[BaseProcess, Job | None]] = {}  # None while the model is loading
    context = multiprocessing.get_context("spawn")  # threads of PyTorch and FFmpeg do not survive a fork

    def start() -> None:
        pipe, worker_pipe = context.Pipe()
        process = context.Process(
            target=_worker_main, args=(worker_pipe, jobs[0].settings, scratch_dir, verbosity()), daemon=True
        )
        process.start()
        worker_pipe.close()  # so that the pipe closes when the process ends
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
                with suppress(OSError):  # the process just died; the next read of the pipe detects it
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


def _worker_main(pipe: Connection, settings: JobSettings, scratch_dir: Path, level: int) -> None:
    set_verbosity(level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends its workers
    parent = multiprocessing.parent_process()

    def exit_if_orphaned(done: int, total: int) -> None:
        if not parent.is_alive():  # a killed parent could not end its workers
            os._exit(1)

    cached_segmenter(settings.checkpoint, settings.device)
    try:
        pipe.send(None)
        while (job := pipe.recv()) is not None:
            pipe.send(segment_job(job, scratch_dir, exit_if_orphaned))
    except (EOFError, OSError):  # the parent is gone
        return
