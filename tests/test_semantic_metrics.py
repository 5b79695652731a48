"""Semantic metrics against a slow NumPy oracle, hand-worked special cases, and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import oracle_semantic

from icf_avs.errors import UserError
from icf_avs.evaluation.metrics import SemanticMetric


@st.composite
def labels(draw) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    classes = draw(st.sampled_from([2, 5, 71]))
    shape = tuple(draw(st.integers(1, 5)) for _ in range(3))
    truth = rng.integers(0, rng.integers(1, classes + 1), shape)
    other = rng.integers(0, rng.integers(1, classes + 1), shape)
    return np.where(rng.random(shape) < 0.5, truth, other), truth, classes


def score(prediction, truth, classes: int = 71, valid=None) -> dict[str, float]:
    metric = SemanticMetric(classes)
    metric.update(torch.as_tensor(prediction), torch.as_tensor(truth), valid)
    return metric.compute()


@settings(max_examples=40, deadline=None)
@given(case=labels(), seed=st.integers(0, 99))
def test_equals_oracle_in_any_order(case, seed):
    prediction, truth, classes = case
    metric = SemanticMetric(classes)
    for i in np.random.default_rng(seed).permutation(len(truth)):
        metric.update(torch.as_tensor(prediction[i : i + 1]), torch.as_tensor(truth[i : i + 1]))
    expected = pytest.approx(oracle_semantic(*case), abs=1e-6)
    assert metric.compute() == expected and score(*case) == expected


def test_hand_worked_frames():
    # class 0: IoU 1/2, precision 1, recall 1/2; class 1: IoU 2/3, precision 2/3, recall 1; classes 2 and 3: never seen
    prediction, truth = [[[0, 1, 1, 1]]], [[[0, 0, 1, 1]]]
    scores = score(prediction, truth, 4)
    iou, f = 1 / 2 + 2 / 3, 1.3 * 0.5 / (0.3 + 0.5) + 1.3 * (2 / 3) / (0.3 * 2 / 3 + 1)
    names = ("miou", "f", "miou_strict", "f_strict")
    assert [scores[name] for name in names] == pytest.approx([iou / 4, f / 4, iou / 2, f / 2])
    # a second frame: class 0 has IoU 3/4, and class 2 is a false positive
    scores = score([*prediction, [[0, 0, 0, 2]]], [*truth, [[0, 0, 0, 0]]], 4)
    mean0 = (1 / 2 + 3 / 4) / 2  # class 1 is absent from the second frame, which does not count for it
    assert scores["miou"] == pytest.approx((mean0 + 2 / 3) / 4)
    assert scores["miou_strict"] == pytest.approx((mean0 + 2 / 3) / 2)
    assert scores["dataset_miou"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert scores["dataset_miou_all"] == pytest.approx((4 / 6 + 2 / 3 + 0) / 4)  # class 3 is nowhere
    assert scores["dataset_f"] == pytest.approx((1.3 * 4 / (1.3 * 4 + 0.3 * 2) + 1.3 * 2 / (1.3 * 2 + 1) + 0) / 3)


def test_reference_nobg_drops_class_70_and_nobg_class_0():
    truth = np.zeros((1, 2, 2), int)
    truth[0, 0] = 70
    both, background, last = (score(ids, truth) for ids in (truth, np.zeros_like(truth), np.full_like(truth, 70)))
    assert both["miou"] == pytest.approx(2 / 71)  # the other 69 classes are absent
    assert both["miou_reference_nobg"] == both["f_reference_nobg"] == pytest.approx(1 / 70)
    assert background["miou_reference_nobg"] == pytest.approx(0.5 / 70)  # from the background alone
    assert background["miou_nobg"] == background["f_nobg"] == 0
    assert last["miou_reference_nobg"] == last["f_reference_nobg"] == 0
    assert last["miou_nobg"] == pytest.approx(0.5 / 70)


def test_padding_is_not_scored():
    rng = np.random.default_rng(0)
    prediction, truth = torch.from_numpy(rng.integers(0, 5, (2, 10, 6, 6)))
    truth[5:] = 0
    valid = torch.arange(10) < 5
    assert score(prediction, truth, 5, valid) == score(prediction[:5], truth[:5], 5)
    padded = truth.clone()
    padded[:5] = prediction[:5]  # blank predictions for padding would be free background frames
    assert score(padded, truth, 5)["miou"] > score(padded, truth, 5, valid)["miou"]
    metric = SemanticMetric(5)
    metric.update(prediction, truth, torch.zeros(10, dtype=torch.bool))
    with pytest.raises(ValueError, match="no frames"):
        metric.compute()


def test_logits_are_compared_after_softmax():
    truth = torch.zeros(1, 1, 1, dtype=torch.long)
    near = torch.tensor([0.1, 0.1, 0.0])
    near[1] = torch.nextafter(near[1], torch.tensor(1.0))  # the largest logit, but equal to the first after softmax
    assert score(near.view(1, 3, 1, 1), truth, 3)["miou_strict"] == 1
    assert score(torch.eye(3)[1].view(1, 3, 1, 1), truth, 3)["miou_strict"] == 0


def test_reference_sums_round_as_float32():
    metric, total = SemanticMetric(2), np.float32(0)
    prediction, truth = torch.zeros(1, 10, 10, dtype=torch.long), torch.zeros(1, 10, 10, dtype=torch.long)
    prediction[0, 0, :3] = 1
    for _ in range(700):
        metric.update(prediction, truth)
        total += np.float32(97) / np.float32(100)
    scores = metric.compute()
    assert scores["miou_reference_nobg"] == float(total / np.float32(700))
    assert scores["miou_strict"] == pytest.approx(0.97, abs=1e-7)
    assert abs(scores["miou_reference_nobg"] - 0.97) > 1e-6  # the rounding is visible


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_invalid_arguments():
    metric, ids = SemanticMetric(5), torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="no frames"):
        metric.compute()
    for bad, told in ((5, r"0\.\.5"), (255, r"0\.\.255"), (-1, r"-1\.\.0")):
        with pytest.raises(UserError, match=rf"truth holds class ids {told}; they must lie in 0\.\.4$"):
            metric.update(ids, torch.tensor([[[0, bad], [0, 0]]]))
        with pytest.raises(ValueError, match=rf"prediction holds class ids {told}"):
            metric.update(torch.tensor([[[0, bad], [0, 0]]]), ids)
    for prediction, truth in ((ids[0], ids[0]), (ids.float(), ids), (torch.zeros(1, 4, 2, 2), ids), (ids, ids[:, :1])):
        with pytest.raises(ValueError, match="want class ids"):
            metric.update(prediction, truth)
    with pytest.raises(ValueError, match=r"want bool \[1\]"):
        metric.update(ids, ids, torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="classes is 1"):
        SemanticMetric(1)
