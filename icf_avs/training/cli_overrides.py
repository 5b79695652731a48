"""What the options of `icf train` make of a recipe, and which of them have no effect on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icf_avs.config import TrainConfig
from icf_avs.config_dict import with_settings
from icf_avs.datasets.layouts import class_names
from icf_avs.errors import UserError
from icf_avs.training.recipes import with_encoders

# The setting of each option, which --set can change as well; one of a part has a dot.
_SETTING_OF = {
    "seed": "seed", "steps": "steps", "pretrain_steps": "audio_pretrain_steps", "lr": "learning_rate", "batch": "batch",
    "text_encoder": "text_encoder", "visual_encoder": "model.visual", "audio_encoder": "model.audio",
    "audio_source": "benchmark.audio_source",
}  # fmt: skip


@dataclass(frozen=True)
class Choices:
    """Options that change the configuration, None: not given."""

    visual_encoder: str | None = None
    audio_encoder: str | None = None
    text_encoder: str | None = None
    audio_source: str | None = None  # as the command line has it, log-mel
    seed: int | None = None
    steps: int | None = None
    pretrain_steps: int | None = None
    lr: float | None = None
    batch: int | None = None
    settings: Sequence[str] | None = None  # KEY=VALUE, of any field

    def configured(self, recipe: TrainConfig) -> TrainConfig:
        """The run of a recipe with these options."""
        config = with_encoders(recipe, self.visual_encoder, self.audio_encoder, self.text_encoder)
        given = {name: getattr(self, option) for option, name in _SETTING_OF.items() if "." not in name}
        config = replace(config, **{name: value for name, value in given.items() if value is not None})
        if self.audio_source is not None and config.benchmark is not None:
            source = self.audio_source.replace("-", "_")
            config = replace(config, benchmark=replace(config.benchmark, audio_source=source))
        return with_settings(config, self.settings or ())


def refuse_idle(recipe: TrainConfig, choices: Choices, data: Path | None, stamps: Path | None) -> None:
    """Raise UserError for an option that would change nothing in a run of the recipe, or that it cannot follow."""
    _refuse_settings(recipe.name, choices)
    name, chosen = recipe.name, choices.configured(recipe)
    kept, model = (run.model_config(("",)) for run in (recipe, chosen))
    if recipe.benchmark is None:
        if data is not None:
            raise UserError(f"recipe {name} trains on Stamps scenes and takes no --data; name stamps with --stamps")
        if choices.audio_source is not None:
            raise UserError(f"recipe {name} mixes the sound of its scenes itself and takes no --audio-source")
        if model.visual != kept.visual:
            raise UserError(
                f"recipe {name} has its images encoded once by {kept.visual} and takes no other --visual-encoder"
            )
    elif stamps is not None:
        raise UserError(f"recipe {name} trains on the set of --data and takes no --stamps")
    if recipe.words is not None:
        if model.audio != kept.audio or chosen.text_encoder != recipe.text_encoder:
            raise UserError(f"recipe {name} trains on words that {kept.audio} predicts, embedded by "
                            f"{recipe.text_encoder}: it takes no other --audio-encoder or --text-encoder")  # fmt: skip
        if choices.pretrain_steps:
            raise UserError(f"recipe {name} has an audio encoder that comes trained and takes no --pretrain-steps")
        return
    reads = chosen.icf.mit if chosen.icf else model.implicit_text
    if choices.text_encoder is not None and not reads:
        raise UserError(f"recipe {name} has no text to embed (it is without MIT) and takes no --text-encoder")
    if data is None or not ((choices.text_encoder and not chosen.icf) or choices.pretrain_steps):
        return
    if not class_names(data):
        idle = "--text-encoder" if choices.text_encoder else "--pretrain-steps"
        raise UserError(f"{data} has no names of classes, which {idle} needs; leave it out, or name them")


def _refuse_settings(recipe: str, choices: Choices) -> None:
    """Raise UserError for a setting that makes another recipe, and for one that is given twice."""
    given = {
        setting: f"--{option.replace('_', '-')}"
        for option, setting in _SETTING_OF.items()
        if getattr(choices, option) is not None
    }
    for setting in choices.settings or ():
        key = setting.partition("=")[0]
        if key in ("name", "benchmark", "benchmark.layout", "words"):
            raise UserError(f"--set {setting}: recipe {recipe} decides its `{key}`; choose another recipe")
        if key in given:
            raise UserError(f"{key} is given twice, by {given[key]} and by --set {setting}; leave one out")
        given[key] = f"--set {setting}"


def typed(path: Path | str) -> str:
    """A path as an argument, which one that begins with a dash would not be."""
    return f"./{path}" if str(path).startswith("-") else str(path)
