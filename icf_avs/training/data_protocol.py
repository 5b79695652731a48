"""Interface of the training data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from icf_avs.config import TrainConfig
from icf_avs.types import Batch

if TYPE_CHECKING:
    from icf_avs.networks.segmentation_model import SegmentationModel

Report = Callable[[str, int, int, dict[str, float]], None]  # stage, done, total, latest values
Evaluator = Callable[["SegmentationModel"], dict[str, float]]  # scores by name; a higher "score" is better


@dataclass(frozen=True)
class Sample:
    """A clip to display: frames uint8 [T,S,S,3]; sound: waveforms [T,N], log-mel [T,96,64] or, if has_tags, tags [T,C];
    masks [T,h,w] float in [0,1].
    """

    frames: Tensor
    sound: Tensor
    masks: Tensor
    has_tags: bool = False


class Data(Protocol):
    """Data of a run. config: of the run; classes: names in the order of their ids; origin, licence: one line each, for
    the checkpoint.
    """

    config: TrainConfig
    classes: tuple[str, ...]
    origin: str
    licence: str

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Return part number `part` of the batch of a step. It depends only on the run's seed and these numbers."""

    def validate(self, model: SegmentationModel) -> dict[str, float]:
        """Return scores of the trained model on the validation split."""

    def evaluator(self) -> Evaluator:
        """Return a fast evaluator (seconds) for use during training; its validation clips are made or loaded now."""

    def samples(self, count: int) -> list[Sample]:
        """Return the first validation clips, for display."""
