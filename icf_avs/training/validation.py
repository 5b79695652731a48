"""How good a model is in the middle of its run: a few validation clips, scored in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.training.calibrate import calibrate
from icf_avs.training.data import Data

if TYPE_CHECKING:
    from icf_avs.avsbench.training_data import BenchmarkData
    from icf_avs.stamps.training_data import StampsData
    from icf_avs.stamps.word_data import WordData

BATCHES, WORD_BATCHES, CLIPS = 2, 8, 64  # of eight composed scenes, of five frames or of one; clips of a public set
Judge = Callable[[SegmentationModel], dict[str, float]]


def judge_of(data: Data) -> Judge | None:
    """Scores of a model by name, one of them "score", the higher the better; None where the data have no such clips.

    On composed scenes it is the G-mIoU of the best offset, to which the model is left calibrated; on a public set the
    strict mIoU.
    """
    from icf_avs.stamps.training_data import StampsData
    from icf_avs.stamps.word_data import WordData

    if data.config.benchmark is not None:
        return _of_set(data)
    if isinstance(data, WordData):
        return _of_scenes(data, WORD_BATCHES)
    return _of_scenes(data, BATCHES) if isinstance(data, StampsData) else None


def _of_scenes(data: StampsData | WordData, count: int) -> Judge:
    batches = list(islice(data.validation(), count))

    def judge(model: SegmentationModel) -> dict[str, float]:
        found = calibrate(model, batches)
        left = 1 - found.miou_foreign
        score = 2 * found.miou * left / max(1e-6, found.miou + left)
        return {"score": score, **asdict(found)}

    return judge


def _of_set(data: BenchmarkData) -> Judge:
    from icf_avs.avsbench.layouts import read_set
    from icf_avs.evaluate import evaluate
    from icf_avs.inference.predictor import Predictor

    records = read_set(data.root, "val", data.clips.audio)[:CLIPS]

    def judge(model: SegmentationModel) -> dict[str, float]:
        found = evaluate(Predictor(model), records)["strict"]
        whole = {"score": found["miou"], **{name: found[name] for name in ("miou", "f", "fpr_empty")}}
        return {name: value for name, value in whole.items() if not math.isnan(value)}

    return judge
