"""Binary metrics against slow NumPy oracles, hand-worked special cases, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import Clip, oracle_curve, oracle_dataset, oracle_reference, oracle_strict

from icf_avs.evaluation.metrics import THRESHOLDS, AVSBenchMetric, DatasetMetric, StrictMetric, f_curves, g_score

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


@pytest.mark.parametrize("soft", [False, True])
def test_curves_of_large_frames(soft):
    rng = np.random.default_rng(0)
    p = rng.random((2, 224, 224), dtype=np.float32)
    p[0] = np.round(p[0], 3)
    p[:, :20] = 1.0  # reaches the last threshold
    g = (rng.random(p.shape) < 0.2) * (rng.random(p.shape) if soft else 1.0)
    want = np.stack([oracle_curve(a, b) for a, b in zip(p, g, strict=True)])
    truth = torch.from_numpy(g) if soft else torch.from_numpy(g > 0)
    np.testing.assert_allclose(f_curves(torch.from_numpy(p), truth).numpy(), want, atol=1e-9)
    assert want[0, -1] > 0


def test_thresholds_are_inclusive_to_the_last_bit():
    middle = (THRESHOLDS[1:] + THRESHOLDS[:-1]) / 2
    around = [torch.nextafter(x, torch.tensor(side)) for x in (THRESHOLDS, middle) for side in (-1.0, 2.0)]
    p = torch.cat([THRESHOLDS, middle, *around]).clamp(0, 1)
    frames = p[:, None, None]  # one pixel each: F is 1 up to the last threshold that it reaches, then 0
    reached = f_curves(frames, torch.ones_like(frames)).sum(1)
    assert reached.tolist() == pytest.approx((p[:, None] >= THRESHOLDS).sum(1).tolist())


def test_hand_worked_frame():
    # 4 pixels; marked above 0.5: the first two; true: the first and the third
    scores = run(StrictMetric(), [(np.float32([[[0.9, 0.8, 0.4, 0.0]]]), np.uint8([[[1, 0, 1, 0]]]))])
    # thresholds up to 0.4 keep three pixels: precision 2/3, recall 1; above 0.8 one: precision 1, recall 1/2
    best = max(1.3 * (2 / 3) / (0.3 * 2 / 3 + 1), 1.3 * 0.5 / (0.3 + 0.5))
    assert [scores[name] for name in ("miou", "f", "active")] == pytest.approx([1 / 3, best, 0.5])


def test_probability_half_is_negative_for_iou_but_positive_for_f():
    scores = run(AVSBenchMetric(1), [(np.full((1, 2, 2), 0.5, np.float32), np.ones((1, 2, 2), np.float32))])
    assert scores == pytest.approx({"miou": 0.0, "f": 1.0, "active": 0.0})


@pytest.mark.parametrize("metric", [AVSBenchMetric(1), StrictMetric()])
def test_soft_masks_count_by_their_value(metric):
    scores = run(metric, [(np.float32([[[0.9, 0.9, 0, 0]]]), np.float32([[[0.5, 1, 0.25, 0]]]))])
    assert scores["miou"] == pytest.approx((0.5 + 1) / (1 + 1 + 0.25))  # sum of products over sum of maxima
    precision, recall = 1.5 / 2, 1.5 / 1.75  # at thresholds in (0, 0.9]; the first, 0, marks all and is worse
    assert scores["f"] == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall))


def test_integer_masks_are_positive_where_not_zero():
    for truth in (np.uint8([[[255, 0]]]), np.array([[[True, False]]])):
        for metric in (DatasetMetric(), StrictMetric()):
            assert run(metric, [(np.float32([[[0.9, 0.9]]]), truth)])["miou"] == 0.5


def test_dataset_metric_by_hand():
    # 40 pixels: 10 predicted, of which 6 are correct; 2 pixels of the object are missed
    p, g = np.zeros((2, 4, 5), np.float32), np.zeros((2, 4, 5), np.uint8)
    p.reshape(-1)[:10], g.reshape(-1)[4:12] = 0.9, 1
    scores = run(DatasetMetric(), [(p[:1], g[:1]), (p[1:], g[1:])])
    f, blank = 1.3 * 6 / (1.3 * 6 + 0.3 * 2 + 4), 1.3 * 28 / (1.3 * 28 + 0.3 * 4 + 2)
    two_classes = {"miou_2classes": (6 / 12 + 28 / 34) / 2, "f_2classes": (f + blank) / 2}  # the background dominates
    assert scores == pytest.approx({"miou": 6 / 12, "f": f, **two_classes})
    nothing = run(DatasetMetric(), [(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.uint8))])
    assert math.isnan(nothing["miou"]) and math.isnan(nothing["f"])
    assert (nothing["miou_2classes"], nothing["f_2classes"]) == (0.5, 1.0)  # CAVP: absent classes are 0 or left out


def test_empty_frames_in_reference_and_strict():
    p, truth = np.zeros((2, 1, 10, 10), np.float32)
    p[0, 0, :3] = 0.9
    assert run(AVSBenchMetric(1), [(p, truth)]) == pytest.approx({"miou": 0.97, "f": 0.0, "active": 0.03})
    scores = run(StrictMetric(), [(p, truth)])
    assert math.isnan(scores["miou"]) and math.isnan(scores["f"])
    assert scores["fpr_empty"] == pytest.approx(0.03) and scores["blank_empty"] == 0


def test_a_silent_batch_lowers_reference_f_and_not_strict_f():
    right, silent = np.ones((2, 1, 3, 3), np.float32), np.zeros((2, 1, 3, 3), np.float32)
    # silent frames of a batch are skipped
    for metric, f in ((AVSBenchMetric(1), 0.5), (AVSBenchMetric(2), 1.0), (StrictMetric(), 1.0)):
        assert run(metric, [right, silent])["f"] == pytest.approx(f)


def test_every_batch_has_its_own_best_threshold():
    # one prediction is exact below 0.3, the other above 0.7: no single threshold fits both
    both = [(np.float32([[[p, q]]]), np.float32([[[1, 0]]])) for p, q in ((0.2, 0.0), (0.9, 0.7))]
    together = (1 + 1.3 * 0.5 / (0.3 * 0.5 + 1)) / 2
    for metric, f in ((AVSBenchMetric(1), 1.0), (AVSBenchMetric(2), together), (StrictMetric(), together)):
        assert run(metric, both)["f"] == pytest.approx(f)


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
