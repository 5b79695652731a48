"""Workers on a Ray cluster, with Ray Data: one task per video, in processes that keep the model loaded.

The nodes need icf-avs, and the videos and --out under the same paths (a shared file system).
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icf_avs.batch.job import Job, segment_job
from icf_avs.errors import UserError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent unless the user opts in
try:
    import ray
    import ray.data
except ModuleNotFoundError as missing:
    raise UserError("--ray needs Ray Data: pip install 'icf-avs[ray]'") from missing


@contextmanager
def cluster(address: str, count: int | None) -> Iterator[int]:
    """Connect to the cluster at `address`, or start one here if it is "local". Yield the number of workers.

    count   workers (default: one per CPU). Raises UserError if the cluster cannot be reached.
    """
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": count, "include_dashboard": False}
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdigit():  # fail fast: Ray would try an unreachable host:port for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--ray {address}: no cluster can be reached there ({reason}); check the address") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs tracebacks of dead workers
    try:
        yield count or int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def run_ray(jobs: list[Job], count: int, scratch_dir: Path) -> Iterator[tuple[Job, str | None]]:
    """Like worker_pool.run_processes, on the connected cluster: `count` tasks at a time with one CPU each. With device
    "cuda" each task also gets one GPU; with "auto" tasks see no GPU. Raises UserError if there is none.
    """
    gpus = 1 if jobs[0].settings.device == "cuda" else None
    if gpus and not ray.cluster_resources().get("GPU"):  # the tasks would wait forever
        raise UserError("device 'cuda': the Ray cluster has no GPU; choose cpu")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows progress
    context.max_errored_blocks = -1  # a dead worker fails its video, not the run
    remaining = dict(enumerate(jobs))

    def run(row: dict) -> dict:
        return {"number": row["item"], "error": segment_job(jobs[int(row["item"])], scratch_dir) or ""}

    # One block per video, so that a dying worker fails only one. No retries by Ray, which retries forever by default.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # max_retries is deprecated, without replacement yet
        rows = ray.data.from_items(list(remaining), override_num_blocks=len(jobs)).map(
            run, compute=ray.data.TaskPoolStrategy(size=min(count, len(jobs))), num_cpus=1, num_gpus=gpus, max_retries=0
        )
    for row in rows.iter_rows():
        yield remaining.pop(int(row["number"])), str(row["error"]) or None
    for job in remaining.values():
        yield job, str(UserError(f"{job.video}: the Ray worker that had it ended (out of memory?)"))
