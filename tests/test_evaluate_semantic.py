"""Scores of a class head on a small AVSS set, against the formulas written out with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate_semantic import class_order, class_protocols, evaluate_semantic
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.score_tables import ScoringSettings
from icf_avs.types import ClipSpec, Prediction

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


def reference(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """mIoU and F over all five classes of the set, ids [n, H, W], by PROTOCOLS section 2."""
    ious, fs, counts = np.zeros(5), np.zeros(5), np.zeros(5)
    for p, t in zip(predicted, truth, strict=True):
        for c in range(5):
            inter, own, true = ((p == c) & (t == c)).sum(), (p == c).sum(), (t == c).sum()
            if own + true == 0:
                continue
            counts[c] += 1
            ious[c] += inter / (own + true - inter + 2.2e-16)
            if inter:
                precision, recall = inter / own, inter / true
                fs[c] += 1.3 * precision * recall / (0.3 * precision + recall)
    seen = np.maximum(counts, 1)
    return float((ious / seen).mean()), float((fs / seen).mean())


def test_both_rules_against_the_formula(tiny):
    root, model = tiny.avss("test", PARTS), Guesser()
    ticks = []
    records = read_set(root, "test")
    scores = evaluate_semantic(model, records, NAMES, progress=lambda: ticks.append(1))
    assert len(ticks) == 3 and [len(logits) for logits, _ in model.made] == [5, 5, 5, 5]  # v2 has ten frames
    truth = true_ids([path for record in records for path in record.mask_paths])
    logits, classes = (torch.cat(maps) for maps in zip(*model.made, strict=True))
    marked, values = enlarged(logits[:, None])[:, 0] > 0, enlarged(classes)
    argmax = TO_SET[values.argmax(1)]
    masked = TO_SET[values[:, 1:].argmax(1) + 1] * marked
    assert (argmax != masked).any()
    for rule, predicted in (("argmax", argmax), ("masked", masked)):
        miou, f = reference(predicted, truth)
        assert scores[rule]["miou"] == pytest.approx(miou, abs=1e-5)
        assert scores[rule]["f"] == pytest.approx(f, abs=1e-5)


def test_a_perfect_model_scores_one_on_classes_that_occur(tiny):
    root = tiny.avss("test", ["v1s", "v1m"])
    records = read_set(root, "test")

    class Oracle(Guesser):
        calls = 0

        def predict(self, frames, waves):
            made = super().predict(frames, waves)
            truth = torch.from_numpy(records[self.calls].load().masks).long()
            self.calls += 1
            own = torch.tensor([("background", *self.classes).index(name) for name in NAMES])
            made.classes = 20.0 * F.one_hot(own[truth], 5).permute(0, 3, 1, 2)
            made.logits = torch.where(truth > 0, 9.0, -9.0)
            return made

    every = evaluate_semantic(Oracle(), records, NAMES)
    assert set(every) == {"argmax", "argmax-padded", "masked"}
    for rule, scores in every.items():
        assert scores["miou_strict"] == pytest.approx(1), rule
        assert scores["miou"] == pytest.approx(3 / 5), rule  # two classes never occur
    assert evaluate_semantic(Oracle(), records, NAMES, clips=1)["argmax"]["miou"] == pytest.approx(2 / 5)


def test_the_reference_pads_every_clip_to_ten_frames(tiny):
    """Padding counts as correct background: 5 frames of each five-second clip, none of v2."""
    records, model = read_set(tiny.avss("test", PARTS), "test"), Guesser()
    padded = evaluate_semantic(model, records, NAMES)["argmax-padded"]
    truth = [record.load().masks for record in records]
    predicted = TO_SET[enlarged(torch.cat([classes for _, classes in model.made])).argmax(1)]
    blank = np.zeros((10, 224, 224), int)
    miou, f = reference(np.concatenate([predicted, blank]), np.concatenate([*truth, blank]))
    assert (padded["miou"], padded["f"]) == pytest.approx((miou, f), abs=1e-5)


def test_settings(tiny):
    records = read_set(tiny.avss("test", PARTS), "test")
    usual = evaluate_semantic(Guesser(), records, NAMES)
    lower = evaluate_semantic(Guesser(), records, NAMES, settings=ScoringSettings(threshold=0.2))
    assert lower["argmax"] == usual["argmax"] and lower["masked"] != usual["masked"]
    alone = evaluate_semantic(Guesser(), records, NAMES, settings=ScoringSettings(batch_size=1))
    assert all(alone[rule] == pytest.approx(usual[rule], abs=1e-6) for rule in usual)
    small = evaluate_semantic(Guesser(), records, NAMES, settings=ScoringSettings(size=96))
    for rule in usual:
        assert small[rule]["miou"] == pytest.approx(usual[rule]["miou"], abs=0.02) and small[rule] != usual[rule]
    with pytest.raises(ValueError, match="one size"):
        evaluate_semantic(Guesser(), records, NAMES, settings=ScoringSettings(size=None))


def test_protocols_of_the_table():
    names = ["miou", "f", "miou_reference_nobg", "f_reference_nobg", "miou_nobg", "f_nobg", "miou_strict", "f_strict"]
    values = {name: i / 20 for i, name in enumerate([*names, "dataset_miou", "dataset_f", "dataset_miou_all"])}
    table = class_protocols(dict.fromkeys(("argmax", "argmax-padded", "masked"), values))
    padded = [name for name in table if "padded" in name]
    assert padded == ["classes-argmax-padded", "classes-argmax-padded-reference-nobg"]
    assert len(table) == 2 * 6 + 2
    assert (table["classes-argmax-strict"]["miou"], table["classes-argmax-strict"]["f"]) == (0.3, 0.35)
    assert table["classes-masked-dataset"] == pytest.approx({"miou": 0.4, "f": 0.45, "fpr": np.nan}, nan_ok=True)
    assert table["classes-masked-dataset-all"]["miou"] == 0.5


def test_unlabelled_frames_are_not_scored(tiny):
    """Of a v1s training clip only the first frame is labelled."""
    records, model = read_set(tiny.avss("train", ["v1s"]), "train"), Guesser()
    scores = evaluate_semantic(model, records, NAMES)
    predicted = TO_SET[enlarged(model.made[0][1][:1]).argmax(1)]
    expected, _ = reference(predicted, true_ids(records[0].mask_paths[:1]))
    assert scores["argmax"]["miou"] == pytest.approx(expected, abs=1e-5)


def test_models_that_do_not_fit_the_set_are_refused(tiny, tmp_path):
    records = read_set(tiny.avss("test", ["v1s"]), "test")
    with pytest.raises(UserError, match=r"do not match.* only the checkpoint has cow, only the set has cat, eel"):
        evaluate_semantic(Guesser(), records, ("background", "ant", "bee", "cat", "dog", "eel"))
    blind = Guesser()
    blind.semantic = None
    with pytest.raises(UserError, match="without a class head"):
        evaluate_semantic(blind, records, NAMES)
    assert class_order(("b", "a"), ("background", "a", "b")) == [0, 2, 1]


def test_sets_without_class_ids_are_refused(tiny):
    records = read_set(tiny.s4("test", ["ant"]), "test")
    with pytest.raises(UserError, match="S4 set, whose masks have no classes"):
        evaluate_semantic(Guesser(), records, NAMES)
