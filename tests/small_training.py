"""Training run of ten steps on a few real scenes, for several test files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from icf_avs.config import DataConfig, ModelConfig, TrainConfig
from icf_avs.encoders.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from icf_avs.encoders.text_encoders import MINILM_DIM
from icf_avs.training import run
from icf_avs.training import trainer as trainer_module
from icf_avs.training.composed_data import StampsData
from icf_avs.training.recipes import RECIPES
from icf_avs.training.run import train

TINY = TrainConfig(
    name="tiny", model=ModelConfig(dim=32, pixel_dim=16), data=DataConfig(images=16, clips=4, validation=8),
    audio_pretrain_steps=4, audio_pretrain_batch=8, steps=6, highres_steps=0, batch=10, clip_share=0.4, warmup=2,
    checkpoint_every=1000,
)  # fmt: skip
PARTS = ("implicit_text", "counterfactual", "contrastive")
PLAIN = replace(TINY.model, **dict.fromkeys(PARTS))


@lru_cache
def frozen_encoder() -> EfficientNetLite0:
    return load_efficientnet_lite0()


def tiny_data() -> StampsData:
    """Scenes of TINY, rendered once per cache."""
    frozen_encoder()  # build it now: this draws random numbers
    return StampsData(TINY, None, 1, lambda *_: None)


def random_names(encoder: str, classes: tuple[str, ...]) -> torch.Tensor:
    """Random unit vectors in place of name embeddings."""
    vectors = torch.randn(len(classes), MINILM_DIM, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(vectors, dim=-1)


def stand_ins(data: StampsData, patch: pytest.MonkeyPatch) -> None:
    """Load scenes and frozen encoder once; use random vectors instead of the text encoder, which takes ten seconds."""

    def loaded(config: TrainConfig, *_: object) -> StampsData:
        again = copy.copy(data)
        again.config = config
        return again

    patch.setattr(run, "training_data", loaded)
    patch.setattr(trainer_module, "embed_names", random_names)
    patch.setattr(trainer_module, "build_visual", lambda *_, **__: frozen_encoder())


def two_steps(recipe: str) -> Callable[[], TrainConfig]:
    """The recipe with two steps of a small network on small frames."""
    config = RECIPES[recipe]()
    model, spec = replace(config.model, dim=32, pixel_dim=16), replace(config.spec, image_size=64)
    return lambda: replace(config, model=model, spec=spec, audio_pretrain_steps=1, steps=2, batch=10)


def broken_off(folder: Path, config: TrainConfig, after: int, source: Path | None = None) -> None:
    """Start a run and interrupt it after `after` steps."""

    def report(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, folder, source=source, report=report)
