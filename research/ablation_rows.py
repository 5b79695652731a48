"""Rows of the study: which run each one is. All share scenes, steps, and for a seed the pretrained audio encoder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from icf_avs.config import CounterfactualConfig, TrainConfig
from icf_avs.config_dict import EARLIER
from icf_avs.guided_losses.total_loss import Weights
from icf_avs.training.recipes import ROWS as PART_SETS
from icf_avs.training.recipes import ablation

TERMS = {  # of the loss, by the one part they belong to
    "mit": ("sound_reading", "pixel_reading"),
    "sc": ("counterfactual", "source_removal", "visual_counterfactual", "generator"),
    "cdcl": ("contrast",),
}
# Settings that came after the study's first runs: with these values a run is what it was without them.
SINCE = {
    "hard": 0.0, "varied": False, "evidence": None, "words": None, "teach_patience": 0, "starts_from": "", "icf": None,
    "interventions": None, "mit": None,
    "audio_rate": 0.6, "visual_rate": 0.1, "network": "guided", "pixel_decoder": "light",
}  # fmt: skip
FIRST = {  # names of terms in the study's first runs, by which hashes of these stay
    "counterfactual": "rivals", "visual_counterfactual": "foreign", "source_removal": "rest",
}  # fmt: skip
PLAIN = TrainConfig(name="study", audio_pretrain_patience=0)  # whatever recipe the shipped checkpoint is trained by
OTHERS = ("source_removal", "visual_counterfactual")  # terms of SC beside that of its counterfactuals


@dataclass(frozen=True)
class Row:
    """One row: parts of the method ("mit", "sc", "cdcl"), a stand-in for one of them, and what the row is for."""

    name: str
    what: str
    parts: tuple[str, ...] = ("mit", "sc", "cdcl")
    control: str | None = None  # of controls.py
    count: int | None = None  # K of SC
    without: tuple[str, ...] = ()  # terms of the loss that count nothing
    main: bool = False

    def config(self, seed: int, steps: int) -> TrainConfig:
        """The run of this row: no pretraining (the pretrained encoder is given) and no last stage."""
        base = replace(PLAIN, steps=steps, audio_pretrain_steps=0, highres_steps=0, seed=seed)
        whole = len(self.parts) == 3
        config = replace(base if whole else ablation(base, *self.parts), name=self.name)
        if self.count is not None:
            config = replace(config, model=replace(config.model, counterfactual=CounterfactualConfig(self.count)))
        return config

    def weights(self) -> Weights:
        return replace(Weights(), **dict.fromkeys(self.without, 0.0))

    def digest(self, config: TrainConfig) -> str:
        """Short hash of all that decides the run but its code and the seed of its weights: of two rows with the same,
        one is superfluous. It changes with the scenes, which differ from seed to seed. Weights of terms that the row's
        parts do not have are left out, and of "extra_audio", which word scenes alone have.
        """
        absent = {"extra_audio"} | {term for part, terms in TERMS.items() if part not in self.parts for term in terms}
        weights = {
            FIRST.get(term, term): weight for term, weight in asdict(self.weights()).items() if term not in absent
        }
        model = _as_then(asdict(config.model))
        run = asdict(replace(config, name="", seed=0)) | {"model": {}}
        run["data"] = _as_then(run["data"]) | {"seed": config.scene_seed}
        run = _as_then(run)
        content = json.dumps([run, model, weights, self.control], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def _as_then(values: dict[str, Any]) -> dict[str, Any]:
    """Settings under their first names, without those that came later and change nothing: so hashes of earlier runs
    stay.
    """
    first = {new: old for names in EARLIER.values() for old, new in names.items()}
    named = {first.get(name, name): value for name, value in values.items()}
    return {name: value for name, value in named.items() if name not in SINCE or value != SINCE[name]}


def teaching(seed: int) -> TrainConfig:
    """The run that pretrains the audio encoder, once for all rows of a seed."""
    return replace(ablation(PLAIN), name=f"taught-{seed}", steps=0, highres_steps=0, seed=seed)


def _main() -> list[Row]:
    names = {(): "baseline"}
    rows = [Row(names.get(parts, "+".join(parts)), "these parts alone", parts, main=True) for parts in PART_SETS]
    return [*rows, Row("all", "the whole method", main=True)]


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *_main(),
        Row(
            "shuffled",
            "SC replaced by other clips' sounds, blank targets",
            control="shuffled",
            without=("source_removal",),
            main=True,
        ),
        Row("random", "SC replaced by random vectors", control="random", without=OTHERS),
        Row("dropout", "SC replaced by dropping most of the sound, blank targets", control="dropout", without=OTHERS),
        Row("sc-no-vision", "SC without do(vision)", without=("visual_counterfactual",)),
        Row("sc-no-rest", "SC without taking a source out of the sound", without=("source_removal",)),
        Row("video-level", "MIT at video level alone", control="video"),
        Row("segment-level", "MIT at segment level alone", control="segment"),
        Row("frame-level", "MIT at frame level alone", control="frame"),
        Row("cosine", "W2 replaced by cosine", control="cosine"),
        Row("k1", "one counterfactual a sound", count=1),
        Row("k4", "four counterfactuals a sound", count=4),
        Row("k8", "eight counterfactuals a sound", count=8),
    )
}
