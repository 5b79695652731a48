"""Learnt temperatures, stored as bounded logarithms as in CLIP. Outside the bounds a softmax is flat or overflows, and
learning stops.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOWEST, HIGHEST = 0.01, 1.0  # CLIP: logits are multiplied by 1 to 100


def log_temperature(start: float) -> nn.Parameter:
    """Create the parameter, which a module must store under the name `log_temperature`."""
    return nn.Parameter(torch.tensor(math.log(start)))


def temperature(logarithm: Tensor) -> Tensor:
    """Return the temperature of a log-temperature parameter."""
    return logarithm.clamp(math.log(LOWEST), math.log(HIGHEST)).exp()


@torch.no_grad()
def clamp_temperatures(model: nn.Module) -> None:
    """Clamp all log-temperatures after an optimizer step: outside the bounds their gradient is zero."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "log_temperature":
            parameter.clamp_(math.log(LOWEST), math.log(HIGHEST))
