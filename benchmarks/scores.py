"""(f) F over 255 thresholds: one histogram a frame against the formula, 255 passes (f_curve.py says it in detail)."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.f_curve import direct, inputs
from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from icf_avs.metrics import f_curves


def scores(machine: Machine) -> Iterator[Row]:
    """Rows f-curve-KIND, the kinds of predictions."""
    for kind, (probabilities, truth) in inputs().items():
        turns = seconds(
            machine,
            lambda p=probabilities, g=truth: f_curves(p, g),
            lambda p=probabilities, g=truth: direct(p, g),
        )
        yield row(f"f-curve-{kind.replace(' ', '-')}", *turns, "direct formula", machine, f"s/{len(truth)} frames")
