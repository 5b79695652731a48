"""Scores of a class head on a small AVSS set, against the formulas written out with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metric_oracles import oracle_semantic
from PIL import Image
from torch.nn import functional as F

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate_semantic import class_protocols, evaluate_semantic
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
