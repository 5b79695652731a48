"""What a run needs of its data, and who provides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from icf_avs.config import TrainConfig
from icf_avs.contracts import Batch

if TYPE_CHECKING:
    from icf_avs.networks.segmentation_model import SegmentationModel

Report = Callable[[str, int, int, dict[str, float]], None]  # stage, done, total, latest values


class Data(Protocol):
    """config: of the run. classes: names of the kinds, in the order of their ids; origin, licence: a line each, for the
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
