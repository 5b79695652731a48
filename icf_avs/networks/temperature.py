"""Learnt temperatures, kept as their logarithm and within bounds, as CLIP keeps its own: outside of them a softmax is
flat or overflows, and nothing is learnt any more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LOWEST, HIGHEST = 0.01, 1.0  # CLIP: logits are multiplied by 1 to 100


def log_temperature(start: float) -> nn.Parameter:
    """The parameter of a module, which must have it under the name `log_temperature`."""
    return nn.Parameter(torch.tensor(math.log(start)))


def temperature(logarithm: Tensor) -> Tensor:
    """The temperature that a parameter stands for."""
    return logarithm.clamp(math.log(LOWEST), math.log(HIGHEST)).exp()


@torch.no_grad()
def clamp_temperatures(model: nn.Module) -> None:
    """After an optimizer step: a parameter that has left the bounds would have no gradient to return by."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "log_temperature":
            parameter.clamp_(math.log(LOWEST), math.log(HIGHEST))
