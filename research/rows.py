"""Rows of the study: the change of each to a base run, and the result of the paper that it reproduces.

The base is `stamps-query` with all of ICF at half width: the query network on composed Stamps scenes, frozen
EfficientNet-Lite0 at 160 pixels, MiniLM as text encoder. A random half of the steps use eight clips of five frames, as
in the paper. The other half use forty single frames, since eight scenes per step are few for so short a run. All rows
of a seed share the scenes, their order and the pretrained audio encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from icf_avs.config import BenchmarkConfig, DataConfig, TrainConfig
from icf_avs.training.recipes import (
    VARIANTS,
    ablation,
    stamps,
    stamps_query_network,
    variant,
    with_interventions,
    with_network,
)
from icf_avs.types import ClipSpec

WIDTH = 64  # of all networks; a step costs a third of one at width 128, as in the recipes
Change = Callable[[TrainConfig], TrainConfig]


@dataclass(frozen=True)
class Row:
    """change: to the base run; answers: the table row or figure point of the paper that it reproduces."""

    name: str
    answers: str
    change: Change

    def config(self, seed: int, steps: int) -> TrainConfig:
        return replace(self.change(base(seed, steps)), name=self.name)


def base(seed: int, steps: int) -> TrainConfig:
    """Return the base run: all of ICF on the query network, with the audio encoder already pretrained."""
    data = DataConfig(images=2_000, clips=1_000)
    whole = replace(stamps_query_network(), data=data, audio_pretrain_steps=0, steps=steps, highres_steps=0)
    small = replace(whole, model=replace(whole.model, dim=WIDTH), spec=ClipSpec(image_size=160))
    return replace(small, batch=40, clip_share=0.5, seed=seed)


def pretraining(seed: int) -> TrainConfig:
    """Return the run that pretrains the audio encoder of a seed, which all networks share."""
    return replace(base(seed, 0), name="audio", icf=None, audio_pretrain_steps=600, audio_pretrain_patience=0)


def digest(config: TrainConfig) -> str:
    """Return a short hash of everything that determines a run except its name and seed."""
    content = json.dumps(asdict(replace(config, name="", seed=0)), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _parts(*parts: str) -> Change:
    return lambda config: ablation(config, *parts)


def _variant(name: str, *parts: str) -> Change:
    return lambda config: variant(ablation(config, *parts) if parts else config, name)


def _set(part: str, **changes: object) -> Change:
    """Change settings of one part of ICF."""
    return lambda config: replace(
        config, icf=replace(config.icf, **{part: replace(getattr(config.icf, part), **changes)})
    )


def _guided(*parts: str) -> Change:
    """Use our guided network, with its method parts instead of ICF."""

    def change(config: TrainConfig) -> TrainConfig:
        guided = replace(config, model=replace(stamps().model, dim=WIDTH), icf=None)
        return guided if len(parts) == 3 else ablation(guided, *parts)

    return change


def _trained(*parts: str) -> Change:
    """Also train EfficientNet-Lite0, on a Stamps set in the MS3 layout."""

    def change(config: TrainConfig) -> TrainConfig:
        unfrozen = replace(
            config,
            model=replace(config.model, train_visual=True),
            benchmark=BenchmarkConfig("MS3"),
            spec=replace(config.spec, phase=15 / 16),
        )
        return ablation(unfrozen, *parts) if len(parts) < 3 else unfrozen

    return change


def _host(name: str, *parts: str) -> Change:
    return lambda config: with_network(config if parts else ablation(config), name)


_ALL = ("mit", "sc", "cdcl")
_VARIANTS = {
    "noise-on-features": "table 2, counterfactuals: noise on features",
    "over-samples": "table 2, counterfactuals: over samples",
    "over-features": "table 2, counterfactuals: over features",
    "vq-vae": "table 2, space: VQ-VAE",
    "without-ortho": "table 2, space: diffusion without L_ortho",
    "pairs-swapped": "table 2, rivals: pairs swapped",
    "audio-replaced": "table 2, rivals: audio replaced",
    "contrast-vt": "table 2, contrasts: v-t",
    "contrast-vt-at": "table 2, contrasts: v-t and a-t",
    "prototypes": "table 2, measure: prototypes",
    "features": "table 2, measure: features",
}
_CURVES = [name for name in VARIANTS if name.split("-")[0] in ("k", "alpha", "depth")]
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("baseline", "table 2: baseline", _parts()),
        Row("cdcl", "table 2: CDCL, vision-audio alone", _parts("cdcl")),
        Row("mit+cdcl", "table 2: MIT and CDCL; counterfactuals: none", _parts("mit", "cdcl")),
        Row("all", "table 2: all", _parts(*_ALL)),
        Row("interventions", "ours: interventions alone", lambda config: with_interventions(ablation(config))),
        Row("all+interventions", "ours: ICF and interventions", with_interventions),
        Row("guided", "ours: the guided network", _guided(*_ALL)),
        Row("tpavi-baseline", "table 3: AVSBench (TPAVI)", _host("tpavi")),
        Row("tpavi-all", "table 3: AVSBench (TPAVI) with ICF", _host("tpavi", *_ALL)),
        Row("avsegformer-baseline", "table 3: AVSegFormer", _host("avsegformer")),
        Row("avsegformer-all", "table 3: AVSegFormer with ICF", _host("avsegformer", *_ALL)),
        Row("trained-baseline", "table 2: baseline, encoder trained", _trained()),
        Row("trained-cdcl", "table 2: CDCL, encoder trained", _trained("cdcl")),
        Row("trained-mit+cdcl", "table 2: MIT and CDCL, encoder trained", _trained("mit", "cdcl")),
        Row("trained-all", "table 2: all, encoder trained", _trained(*_ALL)),
        Row("mit-refined", "table 2: MIT, as eq. 2 before the decoder", _variant("refined", "mit")),
        Row("mit-text", "table 2: MIT, as text that queries attend to", _variant("text", "mit")),
        *(Row(name, answers, _variant(name)) for name, answers in _VARIANTS.items()),
        Row("other-texts", "repair: texts of other clips among the negatives", _set("cdcl", other_texts=True)),
        Row("no-entropy", "repair: gamma 0", _set("cdcl", gamma=0.0)),
        Row("unconditioned", "repair: the denoiser without v", _set("sc", conditioned=False)),
        Row("by-mask", "repair: vision pooled over the mask", _set("cdcl", vision="mask")),
        *(Row(name, f"figure 5: {name}", _variant(name)) for name in _CURVES),
    )
}
