"""(f) F over 255 thresholds: one histogram per frame against the formula with 255 passes, on the same frames."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from icf_avs.evaluation.metrics import THRESHOLDS, f_curves

FRAMES, SIZE = 5, 224


def scores(machine: Machine) -> Iterator[Row]:
    """Yield rows f-curve-KIND, where KIND is the kind of predictions."""
    for kind, (probabilities, truth) in inputs().items():
        turns = seconds(
            machine,
            lambda p=probabilities, g=truth: f_curves(p, g),
            lambda p=probabilities, g=truth: direct(p, g),
        )
        yield row(f"f-curve-{kind}", *turns, "direct formula", machine, f"s/{len(truth)} frames")


def direct(probabilities: Tensor, truth: Tensor) -> Tensor:
    """F of every frame at every threshold, directly from the formula: two float [n, H, W] -> float32 [n, 255]."""
    precision, recall = torch.zeros(2, len(truth), len(THRESHOLDS))
    for i, (p, g) in enumerate(zip(probabilities, truth, strict=True)):
        for j, threshold in enumerate(THRESHOLDS):
            marked = (p >= threshold).float()
            hits = (marked * g).sum()
            precision[i, j], recall[i, j] = hits / (marked.sum() + 1e-20), hits / (g.sum() + 1e-20)
    return (1.3 * precision * recall / (0.3 * precision + recall)).nan_to_num(0.0)


def inputs() -> dict[str, tuple[Tensor, Tensor]]:
    """Return probabilities and truth [FRAMES, SIZE, SIZE] of several kinds."""
    torch.manual_seed(0)
    shape = (FRAMES, SIZE, SIZE)
    truth = torch.zeros(shape)
    truth[:, 50:150, 80:200] = 1
    return {
        "uniform": (torch.rand(shape), truth),
        "confident": ((12 * (truth - 0.5) + 4 * torch.randn(shape)).sigmoid(), truth),
        "hard": ((truth + 0.2 * torch.randn(shape) > 0.5).float(), truth),
        "on-thresholds": (THRESHOLDS[torch.randint(len(THRESHOLDS), shape)], truth),
        "soft-truth": (torch.rand(shape), truth * torch.rand(shape)),
    }
