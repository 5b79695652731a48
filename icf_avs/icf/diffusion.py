"""The latent diffusion of semantic counterfactuals: noise schedule and denoiser (eq. 6, 9).

    q(z_t | z_(t-1), v) = N(sqrt(1 - beta_t) z_(t-1), beta_t I), so z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps
    (eq. 6)
    p(z_(t-1) | z_t, v), from the noise predicted by eps_theta(z_t, t, v); here the deterministic step of DDIM
    (eq. 9)

The betas are those of latent diffusion: linear in their square roots, from .0015 to .0195 over 1000 steps. States have
unit variance in each dimension, because the signal of a unit-length vector would vanish after a few steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_BETA, LAST_BETA = 0.0015, 0.0195
TIME_WIDTH = 64  # width of the time embedding before its MLP


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class NoiseSchedule(nn.Module):
    """Noise schedule. abar [chain + 1]: share of the signal in the variance after t steps; abar[0] is 1."""

    abar: Tensor

    def __init__(self, chain: int) -> None:
        super().__init__()
        betas = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, chain, dtype=torch.float64).square()
        abar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
        self.register_buffer("abar", abar.float(), persistent=False)

    def add_noise(self, z: Tensor, noise: Tensor, step: Tensor | int) -> Tensor:
        """Return z_t of eq. 6. step: one number, or [...] with one step for each vector of z [...,d]."""
        signal = self.abar[step].to(z.dtype)
        signal = signal[..., None] if isinstance(step, Tensor) else signal
        return signal.sqrt() * z + (1 - signal).sqrt() * noise

    def ddim_step(self, state: Tensor, noise: Tensor, step: int, target: int) -> Tensor:
        """Return z_target from z_step and the predicted noise."""
        signal, target_signal = self.abar[step].to(state.dtype), self.abar[target].to(state.dtype)
        clean = (state - (1 - signal).sqrt() * noise) / signal.sqrt()
        return target_signal.sqrt() * clean + (1 - target_signal).sqrt() * noise


class Denoiser(nn.Module):
    """eps_theta(z_t, t, v): residual MLP with layer norms modulated by time and condition. Its output starts at 0."""

    def __init__(self, dim: int, condition: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter, self.condition = nn.Linear(dim, width), nn.Linear(condition, width) if condition else None
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = zero_linear(width, dim)

    def forward(self, state: Tensor, step: Tensor, visual: Tensor | None) -> Tensor:
        """state [...,d], step [...] long, visual [...,V] or None -> predicted noise [...,d]."""
        rates = torch.exp(-math.log(10_000) * torch.arange(TIME_WIDTH // 2, device=step.device) / (TIME_WIDTH // 2))
        angles = step[..., None].float() * rates
        conditioning = self.time(torch.cat([angles.sin(), angles.cos()], -1).to(state.dtype))
        if self.condition is not None:
            conditioning = conditioning + self.condition(visual)
        x = self.enter(state)
        for block in self.blocks:
            x = block(x, conditioning)
        return self.leave(F.layer_norm(x, x.shape[-1:]))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.set = nn.Sequential(nn.SiLU(), zero_linear(width, 3 * width))
        self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale, gate = self.set(conditioning).chunk(3, -1)
        return x + (1 + gate) * self.inner(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)
