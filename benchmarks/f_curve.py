"""Time F over 255 thresholds by one histogram a frame against the direct formula of 255 passes, on the same frames.

    python benchmarks/f_curve.py [--out results/bench_f_curve.csv]

Processor time of one thread. The two take turns, so that whatever else the machine does falls on both; a row gives the
medians of five turns, the median of their five ratios, and the largest difference between the two answers.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from icf_avs.metrics import THRESHOLDS, f_curves
from icf_avs.results import hardware, revision, write_whole

FRAMES, SIZE, TURNS = 5, 224, 5
COLUMNS = (
    "frames",
    "direct_ms",
    "histogram_ms",
    "ratio",
    "max_difference",
    "processor",
    "threads",
    "torch",
    "revision",
)


def direct(probabilities: Tensor, truth: Tensor) -> Tensor:
    """F of every frame at every threshold as the formula says it: [n, H, W] floats twice -> float32 [n, 255]."""
    precision, recall = torch.zeros(2, len(truth), len(THRESHOLDS))
    for i, (p, g) in enumerate(zip(probabilities, truth, strict=True)):
        for j, threshold in enumerate(THRESHOLDS):
            marked = (p >= threshold).float()
            hits = (marked * g).sum()
            precision[i, j], recall[i, j] = hits / (marked.sum() + 1e-20), hits / (g.sum() + 1e-20)
    return (1.3 * precision * recall / (0.3 * precision + recall)).nan_to_num(0.0)


def inputs() -> dict[str, tuple[Tensor, Tensor]]:
    """Probabilities and truth [FRAMES, SIZE, SIZE] of several kinds."""
    torch.manual_seed(0)
    shape = (FRAMES, SIZE, SIZE)
    truth = torch.zeros(shape)
    truth[:, 50:150, 80:200] = 1
    return {
        "uniform": (torch.rand(shape), truth),
        "confident": ((12 * (truth - 0.5) + 4 * torch.randn(shape)).sigmoid(), truth),
        "hard": ((truth + 0.2 * torch.randn(shape) > 0.5).float(), truth),
        "on thresholds": (THRESHOLDS[torch.randint(len(THRESHOLDS), shape)], truth),
        "soft truth": (torch.rand(shape), truth * torch.rand(shape)),
    }


def timed(compute: Callable[[Tensor, Tensor], Tensor], frames: tuple[Tensor, Tensor]) -> tuple[float, Tensor]:
    """Milliseconds of processor time, and the answer."""
    started = time.process_time()
    curves = compute(*frames)
    return 1000 * (time.process_time() - started), curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/bench_f_curve.csv"), help="table to write")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    machine = hardware()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, frames in inputs().items():
        turns = []
        timed(f_curves, frames)  # the first call of a process is slower
        for _ in range(TURNS):
            (slow, want), (fast, got) = timed(direct, frames), timed(f_curves, frames)
            turns.append((slow, fast, slow / fast))
        slow, fast, ratio = (median(column) for column in zip(*turns, strict=True))
        difference = (got - want).abs().max().item()
        print(f"{name:14s} {slow:6.1f} ms directly, {fast:5.2f} ms by histogram: {ratio:.0f}x, {difference:.0e} apart")
        facts = (machine["processor"], machine["threads"], machine["torch"], revision())
        writer.writerow((name, f"{slow:.1f}", f"{fast:.3f}", f"{ratio:.0f}", f"{difference:.1e}", *facts))
    write_whole(out, text.getvalue())
    print(f"wrote {out}: {FRAMES} frames of {SIZE}x{SIZE}, median of {TURNS}")


if __name__ == "__main__":
    main()
