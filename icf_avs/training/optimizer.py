"""The optimizer of a stage, the schedule of its learning rate, and when the pretraining of the audio encoder ends."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
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
    # weight decay applies to matrices and kernels, and to no scalars, vectors or biases
    named = ((name.rpartition(".")[2], p) for name, p in module.named_parameters() if p.dim() > 1)
    decayed, groups = {id(p) for name, p in named if "bias" not in name}, []
    for scale, parameters in shares:
        for decay, chosen in ((config.weight_decay, True), (0.0, False)):
            some = [p for p in parameters if (id(p) in decayed) == chosen]
            groups += [{"params": some, "scale": scale, "weight_decay": decay}] if some else []
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


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


WINDOWS, TOLERANCE = 4, 0.005


@dataclass
class Plateau:
    """Means over a quarter of `patience` steps each: the loss has stopped falling once four of them in a row are not
    below the lowest one before by half a hundredth of the first. patience 0: never. A function of the losses alone, so
    a resumed run and every process of a run decide alike.
    """

    patience: int
    losses: list[float] = field(default_factory=list)  # of the window that is not full yet
    first: float | None = None
    best: float = float("inf")
    idle: int = 0  # windows since the lowest mean

    def reached(self, loss: float) -> bool:
        """Add the loss of a step; whether it has stopped falling."""
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
        """What `Plateau(**state)` goes on from."""
        return asdict(self)
