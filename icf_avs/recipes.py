"""Every training run, one function each. A variant calls another and replaces what differs."""

from __future__ import annotations

from dataclasses import replace

from icf_avs.config import DataConfig, TrainConfig


def stamps() -> TrainConfig:
    """Full ICF on the embedded benchmark: the shipped checkpoint. Scores and time: README, from results/*.csv."""
    return TrainConfig(name="stamps", model={})


def stamps_baseline() -> TrainConfig:
    """The same network without MIT, SC and CDCL, the same taught audio encoder."""
    return replace(
        stamps(), name="stamps-baseline", model={"implicit_text": None, "counterfactual": None, "contrastive": None}
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


RECIPES = {config.__name__.replace("_", "-"): config for config in (stamps, stamps_baseline, stamps_quick)}
