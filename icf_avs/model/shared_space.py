"""CDCL's shared space: every modality of a clip as a diagonal Gaussian.

mu, sigma = weighted mean and standard deviation of unit tokens,  sigma >= floor
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Gaussian(NamedTuple):
    """mean and deviation [..., d] of a set of tokens."""

    mean: Tensor
    deviation: Tensor


def gaussian(tokens: Tensor, weights: Tensor, floor: float) -> Gaussian:
    """tokens [..., n, d], weights [..., n] >= 0 (not all zero, else the mean is zero) -> Gaussian over n."""
    weights = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-6))[..., None]
    mean = (tokens * weights).sum(-2)
    variance = ((tokens - mean[..., None, :]).square() * weights).sum(-2)
    return Gaussian(mean, (variance + floor**2).sqrt())


class SharedSpace(nn.Module):
    """Projections of audio, vision and (with MIT) text into one space, and the one temperature of all terms."""

    def __init__(self, dim: int, shared: int, floor: float, temperature: float, text: bool) -> None:
        super().__init__()
        self.floor = floor
        self.audio, self.vision = nn.Linear(dim, shared), nn.Linear(dim, shared)
        self.text = nn.Linear(dim, shared) if text else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def of_audio(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return gaussian(F.normalize(self.audio(tokens), dim=-1), weights, self.floor)

    def of_vision(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return gaussian(F.normalize(self.vision(tokens), dim=-1), weights, self.floor)

    def of_text(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        if self.text is None:
            raise ValueError("this shared space was built without text")
        return gaussian(F.normalize(self.text(tokens), dim=-1), weights, self.floor)
