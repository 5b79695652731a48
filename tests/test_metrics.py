"""Scores against slow NumPy oracles, hand-worked cases and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icf_avs.metrics import ReferenceMetric, StrictMetric, f_curves

LEVELS = np.float32([0, 0.1, 0.25, 0.5, 0.500001, 0.75, 1.0])


def oracle_curve(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """F of one frame at 255 thresholds, each by comparison of all pixels."""
    thresholds = np.linspace(0, 1 - 1e-10, 255).astype(np.float32)
    curve = []
    for t in thresholds:
        hits = ((p >= t) & g).sum()
        precision, recall = hits / ((p >= t).sum() + 1e-20), hits / (g.sum() + 1e-20)
        below = 0.3 * precision + recall
        curve.append(1.3 * precision * recall / below if below else 0.0)
    return np.array(curve)


def oracle_reference(clips: list[tuple[np.ndarray, np.ndarray]], batch_size: int) -> tuple[float, float]:
    ious, fs = [], []
    for start in range(0, len(clips), batch_size):
        iou, curves = [], []
        for p, g in clips[start : start + batch_size]:
            for frame, truth in zip(p, g, strict=True):
                marked = frame > 0.5
                if truth.any():
                    iou.append((marked & truth).sum() / ((marked | truth).sum() + 1e-7))
                    curves.append(oracle_curve(frame, truth))
                else:
                    iou.append((~marked).sum() / (truth.size + 1e-7))
        ious.append(np.mean(iou))
        fs.append(np.mean(curves, 0).max() if curves else 0.0)
    return float(np.mean(ious)), float(np.mean(fs))


def oracle_strict(clips: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    p, g = (np.concatenate(part) for part in zip(*clips, strict=True))
    marked, sounding = p > 0.5, g.any((1, 2))
    pairs = list(zip(p[sounding], g[sounding], strict=True))
    iou = [((a > 0.5) & b).sum() / ((a > 0.5) | b).sum() for a, b in pairs]
    empty = marked[~sounding].mean((1, 2))
    union = (marked | g).sum()
    return {
        "miou": np.mean(iou) if iou else math.nan,
        "f": np.mean([oracle_curve(a, b) for a, b in pairs], 0).max() if pairs else math.nan,
        "fpr_empty": empty.mean() if len(empty) else math.nan,
        "blank_empty": (empty == 0).mean() if len(empty) else math.nan,
        "active": marked.mean(),
        "dataset_iou": (marked & g).sum() / union if union else math.nan,
    }


@st.composite
def clips(draw) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width, frames = (draw(st.integers(1, 6)) for _ in range(3))
    made = []
    for _ in range(draw(st.integers(1, 6))):
        truth = rng.random((frames, height, width)) < rng.choice([0, 0.3, 1], (frames, 1, 1))
        smooth = rng.random((frames, height, width), dtype=np.float32)
        made.append((rng.choice(LEVELS, truth.shape) if rng.random() < 0.5 else smooth, truth))
    return made


def run(metric, made):
    for p, g in made:
        metric.update(torch.from_numpy(p), torch.from_numpy(g))
    return metric.compute()


@settings(max_examples=25, deadline=None)
@given(made=clips(), batch_size=st.integers(1, 4))
def test_reference_equals_oracle(made, batch_size):
    got = run(ReferenceMetric(batch_size), made)
    assert (got["miou"], got["f"]) == pytest.approx(oracle_reference(made, batch_size), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(made=clips(), seed=st.integers(0, 99))
def test_strict_equals_oracle_in_any_order(made, seed):
    want = oracle_strict(made)
    assert run(StrictMetric(), made) == pytest.approx(want, abs=1e-9, nan_ok=True)
    shuffled = [made[i] for i in np.random.default_rng(seed).permutation(len(made))]
    assert run(StrictMetric(), shuffled) == pytest.approx(want, abs=1e-9, nan_ok=True)


@settings(max_examples=20, deadline=None)
@given(made=clips())
def test_a_perfect_answer_scores_one(made):
    perfect = [(g.astype(np.float32), g) for _, g in made]
    strict = run(StrictMetric(), perfect)
    assert run(ReferenceMetric(2), perfect)["miou"] == pytest.approx(1, abs=1e-6)
    for key in ("miou", "f", "blank_empty", "dataset_iou"):
        assert math.isnan(strict[key]) or strict[key] == pytest.approx(1)
    assert math.isnan(strict["fpr_empty"]) or strict["fpr_empty"] == 0


def test_large_frames_and_the_last_threshold():
    rng = np.random.default_rng(0)
    p = np.round(rng.random((2, 224, 224), dtype=np.float32), 3)
    p[:, :20] = 1.0  # reaches even the last threshold
    g = rng.random(p.shape) < 0.2
    want = np.stack([oracle_curve(a, b) for a, b in zip(p, g, strict=True)])
    got = f_curves(torch.from_numpy(p), torch.from_numpy(g)).numpy()
    np.testing.assert_allclose(got, want, atol=1e-9)
    assert got[0, -1] > 0


def test_hand_worked_frame():
    # 4 pixels; marked above 0.5: the first two; true: the first and the third
    p = torch.tensor([[[0.9, 0.8, 0.4, 0.0]]])
    g = torch.tensor([[[1, 0, 1, 0]]])
    scores = run(StrictMetric(), [(p.numpy(), g.numpy())])
    assert scores["miou"] == pytest.approx(1 / 3)
    # thresholds up to 0.4 keep three pixels: precision 2/3, recall 1; above 0.8 one: precision 1, recall 1/2
    best = max(1.3 * (2 / 3) / (0.3 * 2 / 3 + 1), 1.3 * 0.5 / (0.3 + 0.5))
    assert scores["f"] == pytest.approx(best)
    assert scores["active"] == pytest.approx(0.5)


def test_half_is_not_marked_but_counts_for_f():
    p, g = torch.full((1, 2, 2), 0.5), torch.ones(1, 2, 2)
    metric = ReferenceMetric(1)
    metric.update(p, g)
    assert metric.compute() == pytest.approx({"miou": 0.0, "f": 1.0, "active": 0.0})


def test_empty_truth_is_lenient_in_reference_and_apart_in_strict():
    p = torch.zeros(1, 10, 10)
    p[0, 0, :3] = 0.9
    truth = torch.zeros(1, 10, 10)
    reference, strict = ReferenceMetric(1), StrictMetric()
    reference.update(p, truth)
    strict.update(p, truth)
    assert reference.compute() == pytest.approx({"miou": 0.97, "f": 0.0, "active": 0.03})
    scores = strict.compute()
    assert math.isnan(scores["miou"]) and math.isnan(scores["f"])
    assert scores["fpr_empty"] == pytest.approx(0.03) and scores["blank_empty"] == 0


def test_a_short_last_batch_weighs_as_much_as_a_full_one():
    right, wrong, truth = torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    metric = ReferenceMetric(4)
    for p in (right, right, right, right, wrong):
        metric.update(p, truth)
    assert metric.compute()["miou"] == pytest.approx(0.5)  # and not 4/5
    assert metric.compute()["f"] == pytest.approx((1 + 1) / 2)  # threshold 0 marks all pixels
    metric.update(right, truth)  # asking in between does not close the batch
    assert metric.compute()["miou"] == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize("metric", [ReferenceMetric(), StrictMetric()])
def test_mistakes_of_the_programmer(metric):
    with pytest.raises(ValueError, match="no "):
        metric.compute()
    with pytest.raises(ValueError, match="sigmoid"):
        metric.update(torch.full((1, 2, 2), 3.0), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="sigmoid"):
        metric.update(torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="shapes"):
        metric.update(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match="batch_size"):
        ReferenceMetric(0)
