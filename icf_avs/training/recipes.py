"""Every training run, one function each. A variant calls another and replaces what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from icf_avs.config import BenchmarkConfig, DataConfig, ModelConfig, TrainConfig, WordDataConfig
from icf_avs.contracts import ClipSpec

SMALL = "efficientnet-lite0"
PARTS = {"mit": "implicit_text", "sc": "counterfactual", "cdcl": "contrastive"}


def stamps() -> TrainConfig:
    """Full ICF on the embedded benchmark: the shipped checkpoint. Scores and time: README, from results/*.csv."""
    # Varied sounds take longer to tell apart.
    return TrainConfig(
        name="stamps",
        model={},
        data=DataConfig(finish_pictures=2_400, finish_clips=450, hard=0.5, varied=True),
        teach_steps=3_000,
        steps=3_000,
        finish=1_200,
        finish_size=384,  # outlines gain from it
    )


def stamps_quick() -> TrainConfig:
    """A few minutes: to see that training works on a machine, not for a score."""
    return replace(
        stamps(),
        name="stamps-quick",
        data=DataConfig(pictures=400, clips=40, validation=24),
        teach_steps=150,
        steps=200,
        finish=0,
    )


def natural() -> TrainConfig:
    """Full ICF with an open vocabulary, for natural video: words in place of sounds, on composed scenes."""
    return TrainConfig(
        name="natural",
        model={
            "visual": "efficientnet-lite0-evidence",
            "audio": "efficientat",
            "evidence": {},
        },
        words=WordDataConfig(),
        spec=ClipSpec(image_size=448, sample_rate=32_000, window=160_000),
        teach_steps=0,  # what is heard comes in words
        steps=2_000,
        batch=16,
        clip_share=0.2,
        finish=0,
    )


def _public(layout: str, steps: int, name: str, estimate: str) -> TrainConfig:
    """What runs on the public sets share: full-size PVTv2-B5 and VGGish, CLIP names, batches of 8 clips."""
    frames = 10 if layout == "AVSS" else 5
    return TrainConfig(
        name=name,
        model={
            "visual": "pvt-v2-b5",
            "train_visual": True,
            "audio": "vggish",
            "dim": 256,
            "pixel_dim": 64,
            "heads": 8,
            "semantic": layout == "AVSS",
        },
        benchmark=BenchmarkConfig(layout),
        text="clip",
        estimate=estimate,
        spec=ClipSpec(frames=frames, phase=15 / 16),
        teach_steps=0,  # VGGish comes taught
        steps=steps,
        batch=8 * frames,
        finish=0,
        learning_rate=1e-4,
        weight_decay=0.05,
        checkpoint_every=500,
    )


def s4_pvt() -> TrainConfig:
    """Full ICF on S4, one labelled frame a clip: 30 epochs."""
    return _public("S4", 12_900, "s4-pvt", "about 5 hours on one A100 (an estimate, not measured)")


def ms3_pvt() -> TrainConfig:
    """Full ICF on MS3: 60 epochs. ms3_from_s4 starts it from S4 weights."""
    return _public("MS3", 2_220, "ms3-pvt", "about 1 hour on one A100 (an estimate, not measured)")


def avss_pvt() -> TrainConfig:
    """Full ICF with a class head on AVSS, clips of 5 and 10 frames: 30 epochs."""
    return _public("AVSS", 31_900, "avss-pvt", "about 24 hours on one A100 (an estimate, not measured)")


def ms3_from_s4() -> TrainConfig:
    """MS3 from the weights of an S4 run (--init): half the steps. Both sets must lie beside AVSS, whose metadata gives
    them the same class names.
    """
    estimate = "about half an hour on one A100 (an estimate, not measured)"
    return replace(ms3_pvt(), name="ms3-from-s4", starts_from="an S4 run", steps=1_110, estimate=estimate)


def own() -> TrainConfig:
    """Full ICF on videos of one's own (docs/OWN_DATA.md), with the small encoders: for a laptop."""
    return replace(
        with_encoders(_public("own", 1_500, "own", ""), SMALL, "log-mel", "minilm"),
        estimate="about an hour on a laptop with 8 cores (an estimate, not measured)",
        spec=ClipSpec(),
        checkpoint_every=250,
    )


def composed() -> TrainConfig:
    """Full ICF with a class head on what `icf data compose` wrote, with the small encoders: for a laptop."""
    return replace(
        with_encoders(_public("AVSS", 3_000, "composed", ""), SMALL, "log-mel", "minilm"),
        estimate="about two hours on a laptop with 8 cores (an estimate, not measured)",
        spec=ClipSpec(phase=15 / 16),
        batch=40,
        checkpoint_every=250,
    )


def with_visual(config: TrainConfig, encoder: str, short: str) -> TrainConfig:
    """The same run with another visual encoder."""
    return replace(config, name=config.name.replace("pvt", short), model={**config.model, "visual": encoder})


def with_encoders(config: TrainConfig, visual: str | None, audio: str | None, text: str | None) -> TrainConfig:
    """The same run with other encoders, None: the recipe's. The small ones change what goes with them: Lite0 stays
    frozen and takes the widths and the learning rate of the Stamps recipe, for what trains on it is as small as there;
    the log-mel encoder, which comes untrained, is taught to name sounds first.
    """
    model = {**config.model}
    if visual is not None:
        model |= {"visual": visual, "train_visual": visual != SMALL}
    if audio is not None:
        model["audio"] = audio
    if visual == SMALL:
        model |= {field: getattr(ModelConfig, field) for field in ("dim", "pixel_dim", "heads")}
        config = replace(config, learning_rate=TrainConfig.learning_rate, weight_decay=TrainConfig.weight_decay)
    teach = {"log-mel": TrainConfig.teach_steps, "vggish": 0}.get(audio, config.teach_steps)
    return replace(config, model=model, text=text or config.text, teach_steps=teach)


def ablation(config: TrainConfig, *parts: str) -> TrainConfig:
    """The same run with these parts alone, of "mit", "sc" and "cdcl"; with none it is the baseline."""
    absent = {field: None for name, field in PARTS.items() if name not in parts}
    name = "-".join((config.name, *parts)) if parts else f"{config.name}-baseline"
    return replace(config, name=name, model={**config.model, **absent})


ROWS = ((), ("mit",), ("sc",), ("cdcl",), ("mit", "sc"), ("mit", "cdcl"), ("sc", "cdcl"))  # all three: the run itself


def _recipes() -> dict[str, Callable[[], TrainConfig]]:
    whole = [stamps, s4_pvt, ms3_pvt, avss_pvt]
    more = [natural, stamps_quick, ms3_from_s4, own, composed]
    found: dict[str, Callable[[], TrainConfig]] = {make().name: make for make in (*whole, *more)}
    for make in (s4_pvt, ms3_pvt, avss_pvt):
        for encoder, short in (("resnet-50", "r50"), ("swin-b", "swin")):
            found[make().name.replace("pvt", short)] = lambda make=make, of=(encoder, short): with_visual(make(), *of)
    for make in whole:
        for parts in ROWS:
            found[ablation(make(), *parts).name] = lambda make=make, parts=parts: ablation(make(), *parts)
    return found


RECIPES = _recipes()
