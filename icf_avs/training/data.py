"""What a run needs of its data, and who provides it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from icf_avs.config import TrainConfig
from icf_avs.contracts import Batch

if TYPE_CHECKING:
    from icf_avs.model.icf import ICF

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

    def validate(self, model: ICF) -> dict[str, float]:
        """Scores of the trained model on the validation split."""


def training_data(config: TrainConfig, source: Path | None, workers: int, report: Report) -> Data:
    """The data of a recipe. Raises UserError when they are not there."""
    if config.words is not None:
        from icf_avs.stamps.word_data import WordData

        return WordData(config, source, workers, report)
    if config.benchmark is None:
        from icf_avs.stamps.training_data import StampsData

        return StampsData(config, source, workers, report)
    from icf_avs.avsbench.training_data import BenchmarkData

    return BenchmarkData(config, source, workers)
