"""How good a model is on composed scenes in the middle of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.training.calibrate import calibrate
from icf_avs.training.data import Evaluator
from icf_avs.types import Batch


def scene_evaluator(batches: Sequence[Batch]) -> Evaluator:
    """Its score is the G-mIoU of the best offset, to which the model is left calibrated."""

    def evaluator(model: SegmentationModel) -> dict[str, float]:
        found = calibrate(model, batches)
        left = 1 - found.miou_foreign
        score = 2 * found.miou * left / max(1e-6, found.miou + left)
        return {"score": score, **asdict(found)}

    return evaluator
