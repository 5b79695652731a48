"""Time programs in turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.table import Row
from icf_avs.provenance import hardware, revision


@dataclass(frozen=True)
class Machine:
    """How programs are run: threads of PyTorch, device, turns of each program."""

    turns: int = 5
    threads: int = 2
    device: str = "cpu"

    def pin(self) -> None:
        """Limit this process to `threads` threads."""
        torch.set_num_threads(self.threads)

    @property
    def name(self) -> str:
        facts = hardware(torch.device(self.device))
        return str(facts["gpu"] if self.device == "cuda" else facts["processor"])

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def seconds(machine: Machine, *programs: Callable[[], object], warm: bool = True) -> list[list[float]]:
    """Return the seconds of each turn of each program.

    Every program runs once, uncounted, right before it is timed. Otherwise its time would depend on what the previous
    program left in the processor caches, most of all after the largest. warm: False for programs so long that it does
    not matter.
    """
    taken: list[list[float]] = [[] for _ in programs]
    for _ in range(machine.turns):
        for spent, program in zip(taken, programs, strict=True):
            if warm:
                program()
            machine.finish()
            began = time.perf_counter()
            program()
            machine.finish()
            spent.append(time.perf_counter() - began)
    return taken


def row(
    benchmark: str,
    ours: Sequence[float],
    reference: Sequence[float],
    reference_name: str,
    machine: Machine,
    unit: str = "s",
    more_is_better: bool = False,
) -> Row:
    """Return the table row for paired figures, one pair per turn."""
    ratios = [mine / theirs if more_is_better else theirs / mine for mine, theirs in zip(ours, reference, strict=True)]
    cells = (f"{median(values):.4g}" for values in (ours, reference))
    ratio = f"{median(ratios):.3g}"
    return Row(benchmark, *cells, reference_name, ratio, unit, machine.name, str(machine.threads), revision())
