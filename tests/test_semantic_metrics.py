"""Semantic metrics and scores of a class head on a small AVSS set, against NumPy oracles and cases worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import oracle_semantic
from PIL import Image
from torch.nn import functional as F

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate_semantic import class_protocols, evaluate_semantic
from icf_avs.evaluation.metrics import SemanticMetric
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.score_tables import ScoringSettings
from icf_avs.types import ClipSpec, Prediction


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


def test_padding_is_not_scored():
    rng = np.random.default_rng(0)
    prediction, truth = torch.from_numpy(rng.integers(0, 5, (2, 10, 6, 6)))
    truth[5:] = 0
    valid = torch.arange(10) < 5
    assert score(prediction, truth, 5, valid) == score(prediction[:5], truth[:5], 5)
    with pytest.raises(ValueError, match="no frames"):
        score(prediction, truth, 5, torch.zeros(10, dtype=torch.bool))


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


NAMES = ("background", "ant", "bee", "cow", "dog")
PARTS = ["v1s", "v1m", "v2"]


class Guesser(MaskPredictor):
    """Predicts random coarse maps and keeps them. Its classes are in another order than the set's."""

    classes = ("dog", "ant", "cow", "bee")
    semantic = True

    def __init__(self) -> None:
        self.spec, self.made = ClipSpec(), []
        self.generator = torch.Generator().manual_seed(0)

    def predict(self, frames, waves):
        assert waves.shape == (len(frames), self.spec.window)
        logits = torch.randn(len(frames), 7, 7, generator=self.generator)
        classes = torch.randn(len(frames), 5, 7, 7, generator=self.generator)
        self.made.append((logits, classes))
        return Prediction(logits, torch.zeros(len(frames), 0), (), classes, ("background", *self.classes))


TO_SET = np.array([NAMES.index(name) for name in ("background", *Guesser.classes)])  # class ids of the set


def enlarged(maps: torch.Tensor) -> np.ndarray:
    return F.interpolate(maps, (224, 224), mode="bilinear").numpy()


def true_ids(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).resize((224, 224), Image.Resampling.NEAREST)) for path in paths])


def reference(predicted: np.ndarray, truth: np.ndarray) -> object:
    """mIoU and F over all five classes of the set, ids [n, H, W], by PROTOCOLS section 2."""
    scores = oracle_semantic(predicted, truth, 5)
    return pytest.approx((scores["miou"], scores["f"]), abs=1e-5)


def test_both_rules_against_the_formula(tiny):
    records, model, ticks = read_set(tiny.avss("test", PARTS), "test"), Guesser(), []
    scores = evaluate_semantic(model, records, NAMES, progress=lambda: ticks.append(1))
    assert len(ticks) == 3 and [len(logits) for logits, _ in model.made] == [5, 5, 5, 5]  # v2 has ten frames
    truth = true_ids([path for record in records for path in record.mask_paths])
    logits, classes = (torch.cat(maps) for maps in zip(*model.made, strict=True))
    marked, values = enlarged(logits[:, None])[:, 0] > 0, enlarged(classes)
    argmax = TO_SET[values.argmax(1)]
    masked = TO_SET[values[:, 1:].argmax(1) + 1] * marked
    assert (argmax != masked).any()
    # The reference pads every clip to ten frames, which count as correct background: 5 of each five-second clip.
    blank = np.zeros((10, 224, 224), int)
    padded = np.concatenate([argmax, blank]), np.concatenate([truth, blank])
    for rule, ids in (("argmax", (argmax, truth)), ("masked", (masked, truth)), ("argmax-padded", padded)):
        assert (scores[rule]["miou"], scores[rule]["f"]) == reference(*ids)


def test_settings(tiny):
    records = read_set(tiny.avss("test", PARTS[:2]), "test")
    usual, lower, alone, small = (
        evaluate_semantic(Guesser(), records, NAMES, settings=ScoringSettings(**given))
        for given in ({}, {"threshold": 0.2}, {"batch_size": 1}, {"size": 96})
    )
    assert lower["argmax"] == usual["argmax"] and lower["masked"] != usual["masked"]
    for rule, scores in usual.items():
        assert alone[rule] == pytest.approx(scores, abs=1e-6)
        assert small[rule]["miou"] == pytest.approx(scores["miou"], abs=0.02) and small[rule] != scores


def test_protocols_of_the_table():
    averages = {"": ("miou", "f"), "-reference-nobg": ("miou_reference_nobg", "f_reference_nobg"),
                "-nobg": ("miou_nobg", "f_nobg"), "-strict": ("miou_strict", "f_strict"),
                "-dataset": ("dataset_miou", "dataset_f"),
                "-dataset-all": ("dataset_miou_all", "dataset_f")}  # fmt: skip
    named = {name: name for pair in averages.values() for name in pair}
    table = class_protocols({"argmax": named, "argmax-padded": named, "masked": named})
    expected = {f"classes-{rule}{name}": pair for rule in ("argmax", "masked") for name, pair in averages.items()}
    expected |= {f"classes-argmax-padded{name}": averages[name] for name in ("", "-reference-nobg")}
    assert {name: (row["miou"], row["f"]) for name, row in table.items()} == expected


def test_unlabelled_frames_are_not_scored(tiny):
    """Of a v1s training clip only the first frame is labelled; the second clip is not asked for."""
    records, model = read_set(tiny.avss("train", ["v1s", "v1m"]), "train"), Guesser()
    scores = evaluate_semantic(model, records, NAMES, clips=1)
    ((_, classes),) = model.made
    predicted = TO_SET[enlarged(classes[:1]).argmax(1)]
    truth = true_ids(records[0].mask_paths[:1])
    assert (scores["argmax"]["miou"], scores["argmax"]["f"]) == reference(predicted, truth)


def test_models_and_sets_that_do_not_fit_are_refused(tiny):
    records, blind = read_set(tiny.avss("test", ["v1s"]), "test"), Guesser()
    blind.semantic = None
    others = ("background", "ant", "bee", "cat", "dog", "eel")
    told = r"do not match.* only the checkpoint has cow, only the set has cat, eel"
    for model, names, message in ((Guesser(), others, told), (blind, NAMES, "without a class head")):
        with pytest.raises(UserError, match=message):
            evaluate_semantic(model, records, names)
    tiny.root = tiny.root / "other"
    with pytest.raises(UserError, match="S4 set, whose masks have no classes"):
        evaluate_semantic(Guesser(), read_set(tiny.s4("test", ["ant"]), "test"), NAMES)
