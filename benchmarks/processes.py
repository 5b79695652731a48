"""Whole processes: how long they take and how much memory they need at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.turns import Machine

ROOT = Path(__file__).parents[1]
# A small process starts the one that is measured: Linux counts what the starting process holds to the memory of what it
# starts. Prints seconds, processor seconds, peak memory, exit code, and what the measured process printed.
_STARTER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
ran = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
wall = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss, ran.returncode, ran.stdout]))
"""


@dataclass(frozen=True)
class Finished:
    """wall and cpu in seconds; peak resident memory in megabytes (10^6 bytes); printed: its standard output."""

    wall: float
    cpu: float
    peak: float
    printed: str


def finished(machine: Machine, *arguments: str) -> Finished:
    """Run Python with these arguments, its threads pinned, to its end. Raises CalledProcessError where it fails."""
    command = [sys.executable, *arguments]
    pinned = {**os.environ, "OMP_NUM_THREADS": str(machine.threads), "PYTHONPATH": str(ROOT)}
    starter = [sys.executable, "-S", "-c", _STARTER, *command]
    told = subprocess.run(starter, env=pinned, stdout=subprocess.PIPE, text=True, check=True).stdout
    wall, cpu, peak, code, printed = json.loads(told)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return Finished(wall, cpu, peak * (1 if sys.platform == "darwin" else 1024) / 1e6, printed)
