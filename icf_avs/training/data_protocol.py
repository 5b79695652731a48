"""What a run needs of its data, and who provides it."""

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
Evaluator = Callable[["SegmentationModel"], dict[str, float]]  # scores by name; of "score", the more the better


@dataclass(frozen=True)
class Sample:
    """A clip to display: frames uint8 [T,S,S,3]; sound, waveforms [T,N], log-mel [T,96,64] or, has_tags, tags
    [T,C]; masks [T,h,w] float in [0,1].
    """

    frames: Tensor
    sound: Tensor
    masks: Tensor
    has_tags: bool = False


class Data(Protocol):
    """config: of the run. classes: their names, in the order of their ids; origin, licence: a line each, for the
    checkpoint.
    """

    config: TrainConfig
    classes: tuple[str, ...]
    origin: str
    licence: str

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Part number `part` of the batch of a step: a function of the run's seed and these numbers."""

    def validate(self, model: SegmentationModel) -> dict[str, float]:
        """Scores of the trained model on the validation split."""

    def evaluator(self) -> Evaluator:
        """What scores a model in the middle of its run, in seconds: on a few validation clips, made or loaded now."""

    def samples(self, count: int) -> list[Sample]:
        """The first validation clips, to look at."""
