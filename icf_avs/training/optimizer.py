"""The optimizer of a stage, and the schedule of its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from icf_avs.config import TrainConfig
from icf_avs.training.train_module import TrainModule


def adamw(config: TrainConfig, module: TrainModule, pretraining: bool) -> torch.optim.AdamW:
    """The pretrained audio encoder moves on more slowly, or the decoder's first noise would undo it; so does a visual
    encoder that comes with weights. Pretraining moves the audio encoder and its classifier alone.
    """
    audio = [p for p in module.model.audio.parameters() if p.requires_grad]
    classifier = list(module.audio_classifier.parameters())
    if pretraining:
        shares = [(1.0, [*audio, *classifier])]
    else:
        visual = [p for p in module.model.visual.parameters() if p.requires_grad]
        known = {id(p) for p in (*audio, *visual, *classifier)}
        rest = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
        shares = [(config.audio_rate, audio), (1.0, rest), (config.visual_rate, visual)]
    decayed, groups = _decayed(module), []
    for scale, parameters in shares:
        for decay, chosen in ((config.weight_decay, True), (0.0, False)):
            some = [p for p in parameters if (id(p) in decayed) == chosen]
            groups += [{"params": some, "scale": scale, "weight_decay": decay}] if some else []
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _decayed(module: nn.Module) -> set[int]:
    """Ids of the parameters that weight decay applies to: matrices and kernels, and no scalars, vectors or biases."""
    named = ((name.rpartition(".")[2], p) for name, p in module.named_parameters() if p.dim() > 1)
    return {id(p) for name, p in named if "bias" not in name}


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Share of the learning rate at a step: each of the three stages has a schedule of its own."""
    after = step - config.audio_pretrain_steps
    if after < 0:
        return schedule(step, config.audio_pretrain_steps, config.warmup)
    if after < config.steps:
        return schedule(after, config.steps, config.warmup)
    return 0.5 * schedule(after - config.steps, config.highres_steps, config.warmup)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
