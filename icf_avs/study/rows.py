"""Rows of the study: which run each one is. All share scenes, steps, and for a seed the taught audio encoder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from icf_avs.config import CounterfactualConfig, TrainConfig
from icf_avs.objective.objective import Weights
from icf_avs.training.recipes import ROWS as PART_SETS
from icf_avs.training.recipes import ablation, stamps


@dataclass(frozen=True)
class Row:
    """One row: parts of the method ("mit", "sc", "cdcl"), a stand-in for one of them, and what the row is for."""

    name: str
    what: str
    parts: tuple[str, ...] = ("mit", "sc", "cdcl")
    control: str | None = None  # of controls.py
    count: int | None = None  # K of SC
    vision: bool = True  # do(vision): this picture under the sound of another clip
    main: bool = False

    def config(self, seed: int, steps: int) -> TrainConfig:
        """The run of this row: no teaching (the taught encoder is given) and no finishing stage."""
        base = replace(stamps(), steps=steps, teach_steps=0, finish=0, seed=seed)
        whole = len(self.parts) == 3
        config = replace(base if whole else ablation(base, *self.parts), name=self.name)
        if self.count is not None:
            config = replace(config, model={**config.model, "counterfactual": CounterfactualConfig(self.count)})
        return config

    def weights(self) -> Weights:
        return Weights() if self.vision else replace(Weights(), foreign=0.0)

    def digest(self, config: TrainConfig) -> str:
        """Short hash of all that decides the run but its code: of two rows with the same, one is superfluous."""
        facts = [asdict(replace(config, name="", seed=0)), asdict(self.weights()), self.control]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def teaching(seed: int) -> TrainConfig:
    """The run that teaches the audio encoder to name sounds, once for all rows of a seed."""
    return replace(ablation(stamps()), name=f"taught-{seed}", steps=0, finish=0, seed=seed)


def _main() -> list[Row]:
    names = {(): "baseline"}
    rows = [Row(names.get(parts, "+".join(parts)), "these parts alone", parts, main=True) for parts in PART_SETS]
    return [*rows, Row("all", "the whole method", main=True)]


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *_main(),
        Row("shuffled", "SC replaced by other clips' sounds, blank targets", control="shuffled", main=True),
        Row("random", "SC replaced by random vectors", control="random", vision=False),
        Row("dropout", "SC replaced by dropping most of the sound, blank targets", control="dropout", vision=False),
        Row("sc-audio-only", "SC without do(vision)", vision=False),
        Row("video-level", "MIT at video level alone", control="video"),
        Row("segment-level", "MIT at segment level alone", control="segment"),
        Row("frame-level", "MIT at frame level alone", control="frame"),
        Row("cosine", "W2 replaced by cosine", control="cosine"),
        Row("k1", "one counterfactual a sound", count=1),
        Row("k4", "four counterfactuals a sound", count=4),
        Row("k8", "eight counterfactuals a sound", count=8),
    )
}
