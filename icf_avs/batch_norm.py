"""Batch normalisation of frames: statistics exclude padding and are shared by all processes.

maps [B,T,C,h,w], valid [B,T] -> [B,T,C,h,w]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.distributed import all_reduce


class RunningState:
    """Marker of a module that, like batch normalisation, updates its state in a training forward pass."""


class FrameBatchNorm(nn.BatchNorm3d):
    """Parameters, buffers and evaluation are those of nn.BatchNorm3d."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        mean, variance = self._statistics(x, valid) if self.training else (self.running_mean, self.running_var)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _statistics(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance [C] over all valid positions, and update the running ones."""
        x = x.to(torch.promote_types(x.dtype, torch.float32)).masked_fill(~valid[:, :, None, None, None], 0)
        count = all_reduce((valid.sum() * x.shape[-2] * x.shape[-1]).to(x.dtype)).clamp(min=1)
        mean = all_reduce(x.sum((0, 1, 3, 4))) / count
        centred = (x - mean[:, None, None]) * valid[:, :, None, None, None]
        variance = all_reduce(centred.square().sum((0, 1, 3, 4))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        return mean, variance
