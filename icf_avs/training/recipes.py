"""Training recipes, one function each. A variant calls another recipe and replaces what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from icf_avs import config as configs
from icf_avs.config import ModelConfig, PlugInConfig, TrainConfig
from icf_avs.settings import MIT, InterventionSettings
from icf_avs.types import ClipSpec

SMALL = "efficientnet-lite0"
PARTS = {"mit": "implicit_text", "sc": "counterfactual", "cdcl": "contrastive"}
NO_GUIDED_PARTS: dict[str, None] = dict.fromkeys(PARTS.values())  # parts that only the guided network has


def stamps() -> TrainConfig:
    """Guided network on the embedded benchmark; gives the shipped checkpoint. Scores and time: README, from
    results/*.csv.
    """
    # Augmented sounds take longer to learn.
    data = configs.DataConfig(highres_images=2_400, highres_clips=450, hard_fraction=0.5, audio_augment=True)
    large = {"highres_steps": 1_200, "highres_size": 384}  # improves mask outlines
    return TrainConfig("stamps", data=data, audio_pretrain_steps=3_000, steps=3_000, **large)


def stamps_query_network() -> TrainConfig:
    """Query network with ICF on the embedded benchmark, as small as the guided network there."""
    return replace(
        stamps(), name="stamps-query", model=ModelConfig(network="query", **NO_GUIDED_PARTS), icf=PlugInConfig()
    )


def stamps_quick() -> TrainConfig:
    """A few minutes of training, to check that it works on a machine; not for scores."""
    short = {"audio_pretrain_steps": 150, "steps": 200, "highres_steps": 0}
    return replace(stamps(), name="stamps-quick", data=configs.DataConfig(images=400, clips=40, validation=24), **short)


def natural() -> TrainConfig:
    """Guided network with an open vocabulary, for natural video; trained on composed scenes with words for sounds."""
    return TrainConfig(
        name="natural",
        model=ModelConfig(visual="efficientnet-lite0-evidence", audio="efficientat", evidence=configs.EvidenceConfig()),
        words=configs.WordDataConfig(),
        spec=ClipSpec(image_size=448, sample_rate=32_000, window=160_000),
        audio_pretrain_steps=0,  # the audio encoder is a trained tagger
        steps=2_000,
        batch=16,
        clip_share=0.2,
        highres_steps=0,
    )


def _published_recipe(layout: str, steps: int, name: str, estimate: str) -> TrainConfig:
    """ICF as published on a public set (sec. 4): query network, PVTv2-B5, VGGish, AdamW at 1e-4, 8 clips a step, 60
    epochs, 224 pixels. The paper does not give weight decay (here AdamW's default .01), warm-up and schedule (here
    those of all recipes).
    """
    frames = 10 if layout == "AVSS" else 5
    return TrainConfig(
        name=name,
        model=ModelConfig(
            network="query", pixel_decoder="deformable", visual="pvt-v2-b5", train_visual=True, audio="vggish",
            dim=256, heads=8, layers=3, semantic=layout == "AVSS", **NO_GUIDED_PARTS,
        ),
        icf=PlugInConfig(mit=MIT(encoders="published")), text_encoder="clip",
        benchmark=configs.BenchmarkConfig(layout), estimate=estimate, spec=ClipSpec(frames=frames, phase=15 / 16),
        audio_pretrain_steps=0,  # VGGish is pretrained
        steps=steps, batch=8 * frames, highres_steps=0, learning_rate=1e-4, audio_rate=1.0, visual_rate=1.0,
        weight_decay=0.01, checkpoint_every=500,
    )  # fmt: skip


def s4_pvt() -> TrainConfig:
    """S4, with one labelled frame per training clip."""
    return _published_recipe("S4", 25_890, "s4-pvt", "about 10 hours on one A100 (an estimate, not measured)")


def ms3_pvt() -> TrainConfig:
    """MS3. For a start from S4 weights see `ms3_from_s4`."""
    return _published_recipe("MS3", 2_220, "ms3-pvt", "about 1 hour on one A100 (an estimate, not measured)")


def avss_pvt() -> TrainConfig:
    """AVSS, with a class head and clips of 5 and 10 frames."""
    return _published_recipe("AVSS", 63_735, "avss-pvt", "about 48 hours on one A100 (an estimate, not measured)")


def ms3_from_s4() -> TrainConfig:
    """MS3 from the weights of an S4 run (--init), in half the steps. Both sets must lie beside AVSS, whose metadata
    gives them the same class names.
    """
    estimate = "about half an hour on one A100 (an estimate, not measured)"
    return replace(ms3_pvt(), name="ms3-from-s4", starts_from="an S4 run", steps=1_110, estimate=estimate)


def own() -> TrainConfig:
    """Your own videos (docs/OWN_DATA.md): the guided network with the small encoders, for a laptop."""
    estimate = "about an hour on a laptop with 8 cores (an estimate, not measured)"
    short = {"steps": 1_500, "highres_steps": 0, "batch": 40, "checkpoint_every": 250}
    return TrainConfig("own", benchmark=configs.BenchmarkConfig("own"), estimate=estimate, **short)


def composed() -> TrainConfig:
    """Sets written by `icf data compose`: recipe `own` with a class head."""
    estimate = "about two hours on a laptop with 8 cores (an estimate, not measured)"
    changes = {"benchmark": configs.BenchmarkConfig("AVSS"), "spec": ClipSpec(phase=15 / 16), "steps": 3_000}
    return replace(own(), name="composed", model=ModelConfig(semantic=True), estimate=estimate, **changes)


def with_visual(config: TrainConfig, encoder: str, short: str) -> TrainConfig:
    """The same run with another visual encoder."""
    return replace(config, name=config.name.replace("pvt", short), model=replace(config.model, visual=encoder))


def with_encoders(config: TrainConfig, visual: str | None, audio: str | None, text: str | None) -> TrainConfig:
    """The same run with other encoders; None keeps the recipe's. text: embeds class names, or the pseudo-words of ICF.

    The small encoders bring further settings. Lite0 stays frozen; widths and learning rate become those of the Stamps
    recipe, because the trained part is as small as there. The log-mel encoder has no weights and is pretrained first.
    """
    model = config.model
    if visual is not None:
        model = replace(model, visual=visual, train_visual=visual != SMALL)
    if audio is not None:
        model = replace(model, audio=audio)
    if visual == SMALL:
        small = ("dim", "pixel_dim", "heads", "pixel_decoder")
        model = replace(model, **{field: getattr(ModelConfig, field) for field in small})
        config = replace(config, learning_rate=TrainConfig.learning_rate, weight_decay=TrainConfig.weight_decay)
    pretraining = {"log-mel": TrainConfig.audio_pretrain_steps, "vggish": 0}.get(audio, config.audio_pretrain_steps)
    icf = config.icf
    if text is not None and icf is not None and icf.mit is not None:
        icf = replace(icf, mit=replace(icf.mit, encoders="minilm" if text == "minilm" else "published"))
    text = text or config.text_encoder
    return replace(config, model=model, text_encoder=text, icf=icf, audio_pretrain_steps=pretraining)


def with_network(config: TrainConfig, network: str) -> TrainConfig:
    """The same run with another network, for the hosts of table 3."""
    layers = 6 if network == "avsegformer" else ModelConfig.layers
    model = replace(config.model, network=network, pixel_decoder=ModelConfig.pixel_decoder, layers=layers)
    return replace(config, name=f"{network}-{config.name}", model=model)


def ablation(config: TrainConfig, *parts: str) -> TrainConfig:
    """The same run with only these of the parts "mit", "sc" and "cdcl"; with none it is the baseline. Without MIT there
    are no words to search evidence for, so evidence is removed as well.
    """
    name = "-".join((config.name, *parts)) if parts else f"{config.name}-baseline"
    if config.icf is not None:
        absent = {part: None for part in PARTS if part not in parts}
        return replace(config, name=name, icf=replace(config.icf, **absent) if parts else None)
    absent = {field: None for part, field in PARTS.items() if part not in parts}
    absent |= {} if "mit" in parts else {"evidence": None}
    return replace(config, name=name, model=replace(config.model, **absent))


def with_interventions(config: TrainConfig) -> TrainConfig:
    """The same run with interventions added to its training; not from the paper."""
    return replace(config, name=f"{config.name}-interventions", interventions=InterventionSettings())


def variant(config: TrainConfig, name: str) -> TrainConfig:
    """A row of table 2 or a point of figure 5, by its name in VARIANTS: one part of ICF with changed settings."""
    part, changes = VARIANTS[name]
    icf = replace(config.icf, **{part: replace(getattr(config.icf, part), **changes)})
    return replace(config, name=f"{config.name}-{name}", icf=icf)


ROWS = ((), ("mit",), ("sc",), ("cdcl",), ("mit", "sc"), ("mit", "cdcl"), ("sc", "cdcl"))  # all three: the recipe
# Rows of table 2 that have MIT but no contrasts. As a plug-in they equal the baseline: nothing reaches the network.
MIT_ROWS_WITHOUT_CDCL = (("mit",), ("mit", "sc"))
LEVELS = ("level-frame", "level-frame-video")  # variants of the row MIT
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "level-frame": ("mit", {"levels": ("frame",)}),
    "level-frame-video": ("mit", {"levels": ("video", "frame")}),
    "noise-on-features": ("sc", {"strategy": "feature-noise"}),
    "pairs-swapped": ("sc", {"strategy": "pair-swap"}),
    "audio-replaced": ("sc", {"strategy": "audio-swap"}),
    "text-revised": ("sc", {"strategy": "text-revision"}),
    "vq-vae": ("sc", {"strategy": "vqvae", "lambda_ortho": 0.0}),  # the paper's table adds L_ortho after diffusion
    "over-samples": ("sc", {"orthogonal": "samples"}),
    "over-features": ("sc", {"orthogonal": "features"}),
    "without-ortho": ("sc", {"lambda_ortho": 0.0}),
    "contrast-vt": ("cdcl", {"contrasts": ("vision-text",)}),
    "contrast-vt-at": ("cdcl", {"contrasts": ("vision-text", "audio-text")}),
    "contrast-va": ("cdcl", {"contrasts": ("vision-audio",)}),
    "prototypes": ("cdcl", {"measure": "prototypes"}),
    "features": ("cdcl", {"measure": "features"}),
    **{reading: ("mit", {"reading": reading}) for reading in ("refined", "text")},
    **{f"k-{count}": ("sc", {"keep": count}) for count in (1, 2, 4, 12, 16)},
    **{f"alpha-{low:g}": ("sc", {"alpha": (low, round(low + 0.1, 1))}) for low in (0.5, 0.6, 0.8, 0.9)},
    **{f"depth-{depth}": ("sc", {"depth": depth}) for depth in (50, 100, 400, 800)},
}


def _recipes() -> dict[str, Callable[[], TrainConfig]]:
    Maker = Callable[[], TrainConfig]

    def changed(make: Maker, by: Callable[..., TrainConfig], *options: str) -> Maker:
        return lambda: by(make(), *options)

    pvt = [s4_pvt, ms3_pvt, avss_pvt]
    r50, swin = ([changed(make, with_visual, *of) for make in pvt] for of in (("resnet-50", "r50"), ("swin-b", "swin")))
    hosts = [changed(make, with_network, name) for make in (*pvt, *r50) for name in ("tpavi", "avsegformer")]
    makers: list[Maker] = [stamps, stamps_query_network, *pvt, *r50, *swin, *hosts]
    makers += [ms3_from_s4, natural, stamps_quick, own, composed]
    makers += [changed(make, ablation) for make in (stamps_query_network, *r50, *swin, *hosts)]
    makers += [changed(make, ablation, *parts) for make in (stamps, *pvt) for parts in ROWS]
    for make in (stamps_query_network, *pvt):
        makers += [changed(run, with_interventions) for run in (make, changed(make, ablation))]
    for make in (ms3_pvt, avss_pvt):
        makers += [changed(make, variant, name) for name in VARIANTS if name not in LEVELS]
        rows = [changed(make, ablation, *parts) for parts in MIT_ROWS_WITHOUT_CDCL]
        makers += [changed(row, variant, reading) for row in rows for reading in ("refined", "text")]
        makers += [changed(changed(rows[0], variant, "refined"), variant, level) for level in LEVELS]
    return {make().name: make for make in makers}


RECIPES = _recipes()
