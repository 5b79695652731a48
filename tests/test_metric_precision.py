"""Scores do not depend on the floating-point precision of a metric, of the module that holds it, or of predictions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchmetrics import Metric

from icf_avs.evaluation.metrics import AVSBenchMetric, DatasetMetric, SemanticMetric, StrictMetric

METRICS = {"reference": AVSBenchMetric, "strict": StrictMetric, "dataset": DatasetMetric}
METRICS |= {"semantic": lambda: SemanticMetric(4)}
LOWER = (torch.float16, torch.bfloat16)


def lowered(metric: Metric, way: str, dtype: torch.dtype) -> Metric:
    """The metric after a change of type, by itself or as part of a module."""
    if way == "set_dtype":
        return metric.set_dtype(dtype)
    holder = nn.ModuleDict({"metric": metric, "layer": nn.Linear(2, 2)})
    short = {torch.float16: "half", torch.bfloat16: "bfloat16"}[dtype]
    getattr(holder, short)() if way == "half" else getattr(holder, way)(dtype)
    assert holder["layer"].weight.dtype == dtype
    return holder["metric"]


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


@pytest.mark.parametrize("dtype", LOWER, ids=str)
@pytest.mark.parametrize("way", ["set_dtype", "to", "type", "half"])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_in_lower_precision_counts_exactly(name: str, way: str, dtype: torch.dtype) -> None:
    assert scores(name, lambda metric: lowered(metric, way, dtype)) == scores(name)


@pytest.mark.parametrize("name", METRICS)
def test_the_precision_of_predictions_and_of_torch_changes_nothing(name: str) -> None:
    expected = scores(name)
    assert all(scores(name, predicted=dtype) == expected for dtype in (*LOWER, torch.float64))
    torch.set_default_dtype(torch.float64)
    try:
        assert scores(name) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_resetting_keeps_the_types() -> None:
    metric = DatasetMetric().set_dtype(torch.float16)
    metric.reset()
    assert metric.pixels.dtype == torch.float64
