"""Workers on a Ray cluster, by Ray Data: one task a video, in processes that keep their model.

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

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone unless the user wants to
try:
    import ray
    import ray.data
except ModuleNotFoundError as missing:
    raise UserError("--ray needs Ray Data: pip install 'icf-avs[ray]'") from missing


@contextmanager
def cluster(address: str, count: int | None) -> Iterator[int]:
    """Be on the cluster at `address`, or on one that is started here if it is "local"; how many workers there will be.

    count   workers (default: one a CPU). Raises UserError if the cluster cannot be reached.
    """
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": count, "include_dashboard": False}
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdigit():  # where nobody is at host:port, Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--ray {address}: no cluster can be reached there ({reason}); check the address") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it shows tracebacks of dead workers
    try:
        yield count or int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def run_ray(jobs: list[Job], count: int, work: Path) -> Iterator[tuple[Job, str | None]]:
    """As worker_pool.run_processes, on the cluster that this process is on: `count` tasks at a time, of a CPU each, and
    with the device "cuda" of a GPU each; with "auto" they see none. Raises UserError where the cluster has no GPU.
    """
    gpus = 1 if jobs[0].settings.device == "cuda" else None
    if gpus and not ray.cluster_resources().get("GPU"):  # the tasks would wait for ever
        raise UserError("device 'cuda': the Ray cluster has no GPU; choose cpu")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours is there
    context.max_errored_blocks = -1  # a dead worker fails its video, not the run
    left = dict(enumerate(jobs))

    def one(row: dict) -> dict:
        return {"number": row["item"], "error": segment_job(jobs[int(row["item"])], work) or ""}

    # A block a video: a worker that dies takes no other with it. No retries by Ray, whose default is for ever.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of max_retries, which has no other way in so far
        rows = ray.data.from_items(list(left), override_num_blocks=len(jobs)).map(
            one, compute=ray.data.TaskPoolStrategy(size=min(count, len(jobs))), num_cpus=1, num_gpus=gpus, max_retries=0
        )
    for row in rows.iter_rows():
        yield left.pop(int(row["number"])), str(row["error"]) or None
    for job in left.values():
        yield job, str(UserError(f"{job.video}: the Ray worker that had it ended (out of memory?)"))
