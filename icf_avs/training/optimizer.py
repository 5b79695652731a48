"""Optimizer of a stage, learning rate schedule, and the criterion that ends the pretraining of the audio encoder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from icf_avs.config import TrainConfig
    from icf_avs.training.train_module import TrainModule


def adamw(config: TrainConfig, module: TrainModule, pretraining: bool) -> torch.optim.AdamW:
    """Build the optimizer of a stage. Pretraining updates only the audio encoder and its classifier. Afterwards that
    encoder, and a visual encoder that comes with weights, learn more slowly, or noise of the decoder would undo them.
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
    # weight decay applies to matrices and kernels, and to no scalars, vectors or biases
    named = ((name.rpartition(".")[2], p) for name, p in module.named_parameters() if p.dim() > 1)
    decayed, groups = {id(p) for name, p in named if "bias" not in name}, []
    for scale, parameters in shares:
        for decay, chosen in ((config.weight_decay, True), (0.0, False)):
            some = [p for p in parameters if (id(p) in decayed) == chosen]
            groups += [{"params": some, "scale": scale, "weight_decay": decay}] if some else []
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Return the factor on the learning rate at a step. Each of the three stages has its own schedule."""
    after = step - config.audio_pretrain_steps
    if after < 0:
        return schedule(step, config.audio_pretrain_steps, config.warmup)
    if after < config.steps:
        return schedule(after, config.steps, config.warmup)
    return 0.5 * schedule(after - config.steps, config.highres_steps, config.warmup)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then cosine decay to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


WINDOWS, TOLERANCE = 4, 0.005


@dataclass
class Plateau:
    """Detects that a loss has stopped falling, by its means over windows of a quarter of `patience` steps: if four in a
    row are not below the lowest earlier mean by 0.5 % of the first. patience 0: never. It depends on the losses
    alone, so a resumed run and every process of a run decide the same.
    """

    patience: int
    losses: list[float] = field(default_factory=list)  # of the incomplete window
    first: float | None = None
    best: float = float("inf")
    idle: int = 0  # windows since the lowest mean

    def reached(self, loss: float) -> bool:
        """Add the loss of a step. Returns True if the loss has stopped falling."""
        if not self.patience:
            return False
        self.losses.append(loss)
        if len(self.losses) < max(1, self.patience // WINDOWS):
            return False
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        self.first = mean if self.first is None else self.first
        if mean < self.best - TOLERANCE * self.first:
            self.best, self.idle = mean, 0
        else:
            self.idle += 1
        return self.idle >= WINDOWS

    def state(self) -> dict[str, object]:
        """Return the state from which `Plateau(**state)` continues."""
        return asdict(self)
