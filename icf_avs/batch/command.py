"""`icf segment --manifest`: segment the videos not done yet, retry failures once, and report what still fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from icf_avs.atomic_io import unfinished_folder
from icf_avs.batch.job import Job, JobSettings
from icf_avs.batch.manifest import read_manifest, write_report
from icf_avs.batch.worker_pool import run_processes
from icf_avs.console import counted, progress_console
from icf_avs.errors import UserError

Engine = Callable[[list[Job]], Iterator[tuple[Job, str | None]]]


def corpus_command(
    manifest: Path, out: Path, settings: JobSettings, jobs: int | None = None, ray_address: str | None = None
) -> None:
    """Segment the videos of a manifest into folders below `out`, skipping those that are done.

    jobs         workers (default: one per core, or one per CPU of the cluster)
    ray_address  of a Ray cluster, or "local"; None for processes of this machine

    Raises UserError if the manifest is unusable, before any work, and at the end if videos failed.
    """
    rows = read_manifest(manifest, out, settings)
    todo = [row for row in rows if not row.is_done()]
    failures: dict[Job, str] = {}
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            scratch_dir = stack.enter_context(unfinished_folder(Path(os.path.abspath(out))))  # a hidden subfolder
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
        if todo and ray_address is None:
            engine = partial(run_processes, count=jobs or os.cpu_count() or 1, scratch_dir=scratch_dir)
            _run_with_retry(todo, engine, failures, len(rows))
        elif todo:
            from icf_avs.batch.ray_workers import cluster, run_ray

            with cluster(ray_address, jobs) as count:
                _run_with_retry(todo, partial(run_ray, count=count, scratch_dir=scratch_dir), failures, len(rows))
        report = write_report(out, {row: failures[row] for row in rows if row in failures})
    for part in settings.missing if todo else ():
        print(f"made {part}")
    succeeded, videos = len(todo) - len(failures), counted(len(rows), "video")
    print(f"{manifest}: {videos}, {succeeded} done now, {len(rows) - len(todo)} before -> {out}{os.sep}")
    if failures:
        raise UserError(f"{len(failures)} of {videos} failed; {report} says why")


def _run_with_retry(todo: list[Job], engine: Engine, failures: dict[Job, str], total: int) -> None:
    """Run two rounds, the second over failures of the first. `failures` holds what still fails at the end."""
    console, done = progress_console(), total - len(todo)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("segmenting", total=total, completed=done, counts="")
        for title, rows in (("segmenting", todo), ("trying again", failures)):
            if not rows:
                break
            bar.update(task, description=title)
            for row, error in engine(list(rows)):
                failures.pop(row, None)
                if error is None:
                    done += 1
                else:
                    failures[row] = error
                counts = f"{done} done, {len(failures)} failed, {total - done - len(failures)} left"
                bar.update(task, completed=done, counts=counts)
