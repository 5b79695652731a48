"""Binary metrics against slow NumPy oracles, cases worked by hand, and properties. No score depends on the precision of
a metric or of predictions, nor on the number of processes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import Clip, oracle_dataset, oracle_reference, oracle_strict
from torch.multiprocessing import spawn

from icf_avs.evaluation.metrics import (
    THRESHOLDS,
    AVSBenchMetric,
    DatasetMetric,
    SemanticMetric,
    StrictMetric,
    f_curves,
    g_score,
)

LEVELS = np.float32([0, 0.1, 0.25, 0.5, 0.500001, 0.75, 1.0])
MARKED_ABOVE = st.sampled_from([0.5, 0.4, 0.1, 0.75])


@st.composite
def clips(draw) -> list[Clip]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width, frames = (draw(st.integers(1, 6)) for _ in range(3))
    soft = draw(st.booleans())
    made = []
    for _ in range(draw(st.integers(1, 6))):
        shape = (frames, height, width)
        truth = (rng.random(shape) < rng.choice([0, 0.3, 1], (frames, 1, 1))).astype(np.float32)
        truth = truth * rng.choice(np.float32([0.25, 0.5, 1]), shape) if soft else truth
        drawn = [rng.choice(LEVELS, shape), rng.choice(THRESHOLDS.numpy(), shape), rng.random(shape, np.float32)]
        made.append((drawn[rng.integers(3)], truth))
    return made


def run(metric, made):
    for p, g in made:
        metric.update(torch.from_numpy(p), torch.from_numpy(g))
    return metric.compute()


@settings(max_examples=25, deadline=None)
@given(made=clips(), batch_size=st.integers(1, 4), threshold=MARKED_ABOVE)
def test_reference_equals_oracle(made, batch_size, threshold):
    got = run(AVSBenchMetric(batch_size, threshold), made)
    assert (got["miou"], got["f"]) == pytest.approx(oracle_reference(made, batch_size, threshold), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(made=clips(), seed=st.integers(0, 99), threshold=MARKED_ABOVE)
@pytest.mark.parametrize(("metric", "oracle"), [(StrictMetric, oracle_strict), (DatasetMetric, oracle_dataset)])
def test_strict_and_dataset_equal_oracles_in_any_order(metric, oracle, made, seed, threshold):
    shuffled = [made[i] for i in np.random.default_rng(seed).permutation(len(made))]
    assert run(metric(threshold), shuffled) == pytest.approx(oracle(made, threshold), abs=1e-9, nan_ok=True)


def test_thresholds_are_inclusive_to_the_last_bit():
    middle = (THRESHOLDS[1:] + THRESHOLDS[:-1]) / 2
    around = [torch.nextafter(x, torch.tensor(side)) for x in (THRESHOLDS, middle) for side in (-1.0, 2.0)]
    p = torch.cat([THRESHOLDS, middle, *around]).clamp(0, 1)
    frames = p[:, None, None]  # one pixel each: F is 1 up to the last threshold that it reaches, then 0
    reached = f_curves(frames, torch.ones_like(frames)).sum(1)
    assert reached.tolist() == pytest.approx((p[:, None] >= THRESHOLDS).sum(1).tolist())


def clip(p: list[float], truth: list, kind: type = np.float32) -> Clip:
    """One frame of one row."""
    return np.float32([[p]]), np.array([[truth]], kind)


def f_of(precision: float, recall: float) -> float:
    return 1.3 * precision * recall / (0.3 * precision + recall)


FRAME = clip([0.9, 0.8, 0.4, 0.0], [1, 0, 1, 0])  # above 0.4: precision 2/3, recall 1; above 0.8: 1 and 1/2
SOFT = clip([0.9, 0.9, 0, 0], [0.5, 1, 0.25, 0])
SOFT_SCORES = {"miou": (0.5 + 1) / (1 + 1 + 0.25), "f": f_of(1.5 / 2, 1.5 / 1.75)}  # products over sum of maxima
INTEGERS = [clip([0.9, 0.9], [255, 0], np.uint8), clip([0.9, 0.9], [1, 0], bool)]
EMPTY = clip([0.9] * 3 + [0] * 97, [0] * 100)
RIGHT_AND_SILENT = [clip([1], [1]), clip([0], [0])]
TWO_THRESHOLDS = [clip([0.2, 0.0], [1, 0]), clip([0.9, 0.7], [1, 0])]  # exact below 0.3, and above 0.7
BOTH = (1 + f_of(0.5, 1)) / 2
# 40 pixels: 10 predicted, of which 6 are correct; 2 pixels of the object are missed
COUNTED = [clip([0.9] * 10 + [0] * 10, [0] * 4 + [1] * 8 + [0] * 8), clip([0] * 20, [0] * 20)]
COUNTED_F, BLANK_F = 1.3 * 6 / (1.3 * 6 + 0.3 * 2 + 4), 1.3 * 28 / (1.3 * 28 + 0.3 * 4 + 2)
COUNTED_SCORES = {
    "miou": 6 / 12, "f": COUNTED_F, "miou_2classes": (6 / 12 + 28 / 34) / 2, "f_2classes": (COUNTED_F + BLANK_F) / 2,
}  # fmt: skip
NOTHING_SCORES = {"miou": math.nan, "f": math.nan, "miou_2classes": 0.5, "f_2classes": 1.0}  # CAVP: 0 or left out


@pytest.mark.parametrize(
    ("metric", "clips", "expected"),
    [
        (StrictMetric(), [FRAME], {"miou": 1 / 3, "f": max(f_of(2 / 3, 1), f_of(1, 0.5)), "active": 0.5}),
        (AVSBenchMetric(1), [clip([0.5], [1])], {"miou": 0, "f": 1, "active": 0}),  # negative for IoU, positive for F
        *((metric, [SOFT], SOFT_SCORES) for metric in (AVSBenchMetric(1), StrictMetric())),
        *((metric, INTEGERS, {"miou": 0.5}) for metric in (DatasetMetric(), StrictMetric())),
        (AVSBenchMetric(1), [EMPTY], {"miou": 0.97, "f": 0, "active": 0.03}),
        (StrictMetric(), [EMPTY], {"miou": math.nan, "f": math.nan, "fpr_empty": 0.03, "blank_empty": 0}),
        (AVSBenchMetric(1), RIGHT_AND_SILENT, {"f": 0.5}),
        *((metric, RIGHT_AND_SILENT, {"f": 1}) for metric in (AVSBenchMetric(2), StrictMetric())),  # it is skipped
        (AVSBenchMetric(1), TWO_THRESHOLDS, {"f": 1}),
        *((metric, TWO_THRESHOLDS, {"f": BOTH}) for metric in (AVSBenchMetric(2), StrictMetric())),
        (DatasetMetric(), COUNTED, COUNTED_SCORES),
        (DatasetMetric(), [clip([0], [0])], NOTHING_SCORES),
    ],
)
def test_scores_worked_by_hand(metric, clips, expected):
    found = run(metric, clips)
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)


RIGHT, WRONG, TRUE = torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(1, 2, 2)


def test_a_short_last_batch_has_the_weight_of_a_full_one():
    metric = AVSBenchMetric(4)
    for p in (RIGHT, RIGHT, RIGHT, RIGHT, WRONG):
        metric.update(p, TRUE)
    assert metric.compute()["miou"] == pytest.approx(0.5)  # and not 4/5
    assert metric.compute()["f"] == pytest.approx((1 + 1) / 2)  # threshold 0 marks all pixels
    metric.update(RIGHT, TRUE)  # compute() does not close the batch
    assert metric.compute()["miou"] == pytest.approx((1 + 0.5) / 2)


def test_forward_scores_one_clip_and_keeps_batches_intact():
    metric = AVSBenchMetric(2)
    assert [metric(p, TRUE)["miou"] for p in (WRONG, RIGHT, RIGHT)] == [0, 1, 1]
    assert metric.compute()["miou"] == pytest.approx((0.5 + 1) / 2)


def test_sums_over_many_batches_round_as_float32():
    p, total = torch.zeros(1, 10, 10), np.float32(0)
    p[0, 0, :3] = 1
    metric = AVSBenchMetric(1)
    for _ in range(700):
        metric.update(p, torch.zeros(1, 10, 10))
        total += np.float32(97) / (np.float32(100) + np.float32(1e-7))
    assert metric.compute()["miou"] == float(total / np.float32(700))
    assert abs(metric.compute()["miou"] - 0.97) > 1e-6  # the rounding is visible


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("metric", [AVSBenchMetric(), StrictMetric(), DatasetMetric()])
def test_invalid_arguments_raise_value_error(metric):
    with pytest.raises(ValueError, match="no "):
        metric.compute()
    wrong = [(torch.full((1, 2, 2), p), TRUE, "sigmoid") for p in (3.0, -0.1, math.nan)]
    wrong += [(RIGHT, torch.full((1, 2, 2), 255.0), "soft truth"), (RIGHT, torch.ones(1, 2, 3), "shapes")]
    for p, truth, told in wrong:
        with pytest.raises(ValueError, match=told):
            metric.update(p, truth)
    for bad in (0, 1, math.nan):
        with pytest.raises(ValueError, match="threshold is"):
            type(metric)(threshold=bad)
    with pytest.raises(ValueError, match="batch_size"):
        AVSBenchMetric(0)


def test_g_score():
    assert g_score(1, 0) == 1
    assert g_score(0.8, 0.4) == pytest.approx(2 * 0.8 * 0.6 / 1.4)
    assert g_score(0.8, 1) == g_score(0, 0.3) == g_score(0, 1) == 0
    assert math.isnan(g_score(math.nan, 0.2)) and math.isnan(g_score(0.2, math.nan))
    for bad in ((78.7, 0.1), (0.5, -0.1)):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            g_score(*bad)


CLIPS, BATCH, WORLD = 9, 2, 2  # five batches, the last one short


def scores(rank: int = 0, world: int = 1, lower: torch.dtype | None = None, predicted=torch.float32) -> dict:
    """Scores over all processes; this one gets every `world`-th batch. lower: type that metrics are set to, twice."""
    rng = np.random.default_rng(5)
    binary = {"reference": AVSBenchMetric(BATCH), "strict": StrictMetric(), "dataset": DatasetMetric()}
    metrics = {**binary, "semantic": SemanticMetric(5), "lonely": AVSBenchMetric(CLIPS)}
    for clip in range(CLIPS):
        if lower and clip in (0, 5):
            metrics = {name: metric.set_dtype(lower) for name, metric in metrics.items()}
        p = torch.from_numpy(rng.random((5, 40, 40), np.float32)).half().bfloat16()  # exact in every type
        truth = torch.from_numpy(rng.random(p.shape) < 0.3 * (clip != 3))
        labels = torch.from_numpy(rng.integers(0, 5, (2, *p.shape)))
        if rank == 0:
            metrics["lonely"].update(p, truth)  # one process has no clip of this metric, the other no full batch
        if clip // BATCH % world == rank:
            for name in binary:
                metrics[name].update(p.to(predicted), truth)
            metrics["semantic"].update(*labels)
        if clip == 4:
            metrics["reference"].compute()  # compute() leaves the open batches as they are
    return {name: metric.compute() for name, metric in metrics.items()}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_precision_changes_no_score() -> None:
    expected = scores()
    for dtype in (torch.float16, torch.bfloat16):
        assert scores(lower=dtype) == scores(predicted=dtype) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert scores() == expected
    finally:
        torch.set_default_dtype(torch.float32)
    metric = DatasetMetric().set_dtype(torch.float16)
    metric.reset()
    assert metric.pixels.dtype == torch.float64


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    Path(folder, f"{rank}.json").write_text(json.dumps(scores(rank, WORLD)))
    dist.destroy_process_group()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    want = scores()
    spawn(process, (str(tmp_path),), WORLD)
    for rank in range(WORLD):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in want:
            assert got[name] == pytest.approx(want[name], abs=1e-6), f"{name}, process {rank}"
