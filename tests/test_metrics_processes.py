"""All metrics give the same scores in two real processes as in one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from icf_avs.evaluation.metrics import AVSBenchMetric, DatasetMetric, SemanticMetric, StrictMetric

CLIPS, BATCH, WORLD = 9, 2, 2  # five batches, the last one short


def scores(rank: int, world: int) -> dict[str, dict[str, float]]:
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
    Path(folder, f"{rank}.json").write_text(json.dumps(scores(rank, WORLD)))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_scores_of_one(tmp_path):
    want = scores(0, 1)
    spawn(process, (str(tmp_path),), WORLD)
    for rank in range(WORLD):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in want:
            assert got[name] == pytest.approx(want[name], abs=1e-6), f"{name}, process {rank}"
