"""CDCL's joint space of the guided network: each modality of a clip is a diagonal Gaussian.

mu, sigma = weighted mean and standard deviation of unit tokens,  sigma >= floor
match(z, p) = s (r - W2^2(z, p)) = s (r - |mu_z - v_p|^2 - |sigma_z - floor|^2)           s, r learned scalars

The joint space also guides the decoder. A position is a distribution of one token whose deviation is the floor; its
match with the sound is a map of where the source may be. With MIT it is added to the prior, else it is the prior.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import TokenLinear
from icf_avs.networks.temperature import log_temperature, temperature


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


class JointEmbedding(nn.Module):
    """Projections of audio, vision and (with MIT) text into one space, with one temperature for all terms."""

    def __init__(self, dim: int, shared: int, floor: float, start: float, text: bool) -> None:
        super().__init__()
        self.floor = floor
        self.audio, self.vision = nn.Linear(dim, shared), TokenLinear(dim, shared)
        self.text = nn.Linear(dim, shared) if text else None
        self.log_temperature = log_temperature(start)
        self.sharpness, self.radius = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))

    @property
    def temperature(self) -> Tensor:
        return temperature(self.log_temperature)

    def of_audio(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return gaussian(F.normalize(self.audio(tokens), dim=-1), weights, self.floor)

    def of_vision(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return gaussian(F.normalize(self.vision(tokens), dim=-1), weights, self.floor)

    def of_text(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        if self.text is None:
            raise ValueError("this shared space was built without text")
        return gaussian(F.normalize(self.text(tokens), dim=-1), weights, self.floor)

    def match(self, parts: Tensor, tokens: Tensor) -> Tensor:
        """Match R sounds in L parts [R,N,L,D] with the tokens [N,D,h,w] of N images -> logits [R,N,h,w]."""
        sound = self.of_audio(parts, parts.new_ones(parts.shape[:-1]))
        pixels = F.normalize(self.vision(tokens.permute(0, 2, 3, 1)), dim=-1)
        dot = torch.einsum("rnc,nhwc->rnhw", sound.mean, pixels)
        spread = (sound.deviation - self.floor).square().sum(-1)
        distance = (1 + sound.mean.square().sum(-1) + spread)[..., None, None] - 2 * dot
        return self.sharpness * (self.radius - distance)
