"""Scores do not depend on the floating-point precision of a metric, of the module that holds it, or of predictions;
nor on the number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from torchmetrics import Metric

from icf_avs.evaluation.metrics import AVSBenchMetric, DatasetMetric, SemanticMetric, StrictMetric

METRICS = {"reference": AVSBenchMetric, "strict": StrictMetric, "dataset": DatasetMetric}
METRICS |= {"semantic": lambda: SemanticMetric(4)}


def scores(name: str, change: Callable[[Metric], Metric] = lambda metric: metric, predicted=torch.float32) -> dict:
    """Scores of twelve clips (96,000 pixels); `change` is applied to the metric at the start and halfway."""
    generator, metric = torch.Generator().manual_seed(0), change(METRICS[name]())
    for clip in range(12):
        # exact in every type
        probabilities = torch.rand(5, 40, 40, generator=generator, dtype=torch.float32).half().bfloat16()
        truth = torch.rand(5, 40, 40, generator=generator, dtype=torch.float32) > 0.7
        truth[0] &= clip != 3  # an empty frame
        if name == "semantic":
            logits = torch.randint(-3, 3, (5, 4, 40, 40), generator=generator)
            probabilities, truth = logits.bfloat16(), truth.long() + truth.roll(1, 1).long()
        metric.update(probabilities.to(predicted), truth)
        metric = change(metric) if clip == 5 else metric
    return metric.compute()


@pytest.mark.parametrize("name", METRICS)
def test_precision_changes_no_score(name: str) -> None:
    expected = scores(name)
    for dtype in (torch.float16, torch.bfloat16):
        assert scores(name, lambda metric, dtype=dtype: metric.set_dtype(dtype)) == expected
        assert scores(name, lambda metric, dtype=dtype: nn.Sequential(metric).to(dtype)[0]) == expected
        assert scores(name, predicted=dtype) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert scores(name) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_resetting_keeps_the_types() -> None:
    metric = DatasetMetric().set_dtype(torch.float16)
    metric.reset()
    assert metric.pixels.dtype == torch.float64


CLIPS, BATCH, WORLD = 9, 2, 2  # five batches, the last one short


def shared_scores(rank: int, world: int) -> dict[str, dict[str, float]]:
    """Scores over all processes; this one gets every `world`-th batch."""
    rng = np.random.default_rng(5)
    binary = {"reference": AVSBenchMetric(BATCH), "strict": StrictMetric(), "dataset": DatasetMetric()}
    metrics = {**binary, "semantic": SemanticMetric(5)}
    lonely = AVSBenchMetric(CLIPS)
    for clip in range(CLIPS):
        p = torch.from_numpy(rng.random((3, 5, 4), np.float32))
        truth = torch.from_numpy(rng.random(p.shape) < 0.3 * (clip != 3))
        labels = torch.from_numpy(rng.integers(0, 5, (2, *p.shape)))
        if rank == 0:
            lonely.update(p, truth)  # one process has no clip of this metric, the other no full batch
        if clip // BATCH % world == rank:
            for metric in binary.values():
                metric.update(p, truth)
            metrics["semantic"].update(*labels)
        if clip == 4:
            metrics["reference"].compute()  # compute() leaves the open batches as they are
    return {name: metric.compute() for name, metric in {**metrics, "lonely": lonely}.items()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    Path(folder, f"{rank}.json").write_text(json.dumps(shared_scores(rank, WORLD)))
    dist.destroy_process_group()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    want = shared_scores(0, 1)
    spawn(process, (str(tmp_path),), WORLD)
    for rank in range(WORLD):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in want:
            assert got[name] == pytest.approx(want[name], abs=1e-6), f"{name}, process {rank}"
