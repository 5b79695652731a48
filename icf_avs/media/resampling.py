"""Change of sampling rate for waveforms that are tensors already (media is resampled while it is decoded).

A band-limited interpolation: y[m] = sum_n x[n] h(m / ratio - n), where h is a sinc cut off a little below the lower of
the two Nyquist frequencies and windowed by a squared cosine. Since the ratio is rational, h takes few sets of values:
one convolution computes all of them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_ZEROS = 24  # zero crossings of the sinc to each side: the transition takes about 8 % of the lower Nyquist frequency
_CUTOFF = 0.95  # share of the lower Nyquist frequency that is kept


def resample(waveform: Tensor, rate: int, to: int) -> Tensor:
    """waveform [..., n] at `rate` Hz -> [..., ceil(n * to / rate)] at `to` Hz, as if zeros stood around it.

    Raises ValueError for a rate below 1.
    """
    if rate < 1 or to < 1:
        raise ValueError(f"rates are {rate} and {to}; they must be positive")
    if rate == to:
        return waveform
    step = math.gcd(rate, to)
    up, down = to // step, rate // step
    kernel, reach = _kernel(up, down)
    length = -(-waveform.shape[-1] * up // down)
    padded = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (reach, reach + down))
    phases = F.conv1d(padded, kernel.to(waveform), stride=down)  # N up blocks
    return phases.transpose(1, 2).reshape(*waveform.shape[:-1], -1)[..., :length]


@lru_cache(maxsize=8)
def _kernel(up: int, down: int) -> tuple[Tensor, int]:
    """h at each of the `up` places between `down` samples, [up, 1, 2 * reach + down + 1], and its reach in samples."""
    cutoff = _CUTOFF * min(1.0, up / down)
    reach = math.ceil(_ZEROS / cutoff)
    places = torch.arange(up, dtype=torch.float64) * down / up
    samples = torch.arange(-reach, reach + down + 1, dtype=torch.float64)
    crossings = ((samples - places[:, None]) * cutoff).clamp(-_ZEROS, _ZEROS)
    window = torch.cos(crossings * (math.pi / 2 / _ZEROS)) ** 2
    return (cutoff * torch.sinc(crossings) * window)[:, None].float(), reach
