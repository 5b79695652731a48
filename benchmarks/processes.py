"""Run whole processes and measure their time and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.turns import Machine

ROOT = Path(__file__).parents[1]
# A small process starts the measured one, because Linux counts the memory of the starting process to its child. Prints
# seconds, CPU seconds, peak memory, exit code, and the output of the measured process.
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
    """Run Python with these arguments and pinned threads until it ends. Raises CalledProcessError if it fails."""
    command = [sys.executable, *arguments]
    pinned = {**os.environ, "OMP_NUM_THREADS": str(machine.threads), "PYTHONPATH": str(ROOT)}
    starter = [sys.executable, "-S", "-c", _STARTER, *command]
    told = subprocess.run(starter, env=pinned, stdout=subprocess.PIPE, text=True, check=True).stdout
    wall, cpu, peak, code, printed = json.loads(told)
    if code:
        raise subprocess.CalledProcessError(code, command)
    return Finished(wall, cpu, peak * (1 if sys.platform == "darwin" else 1024) / 1e6, printed)
