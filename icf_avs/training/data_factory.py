"""The data of a recipe."""

from __future__ import annotations

from pathlib import Path

from icf_avs.config import TrainConfig
from icf_avs.training.benchmark_data import BenchmarkData
from icf_avs.training.composed_data import OpenVocabData, StampsData
from icf_avs.training.data_protocol import Data, Report


def training_data(config: TrainConfig, source: Path | None, workers: int, report: Report) -> Data:
    """The data of a recipe. Raises UserError when they are not there."""
    if config.words is not None:
        return OpenVocabData(config, source, workers, report)
    if config.benchmark is None:
        return StampsData(config, source, workers, report)
    return BenchmarkData(config, source, workers)
