"""Metrics of audio-visual segmentation, binary and semantic: as in the public code, and without its quirks."""

from __future__ import annotations

from icf_avs.evaluation.metrics.binary import THRESHOLDS, AVSBenchMetric, StrictMetric, f_curves, g_score
from icf_avs.evaluation.metrics.dataset_level import DatasetMetric
from icf_avs.evaluation.metrics.semantic import SemanticMetric

__all__ = ["THRESHOLDS", "AVSBenchMetric", "DatasetMetric", "SemanticMetric", "StrictMetric", "f_curves", "g_score"]
