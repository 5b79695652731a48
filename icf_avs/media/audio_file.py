"""A sound file as a mono waveform, whatever its format, rate and channels; and waveforms at another sampling rate."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.errors import UserError
from icf_avs.media.container import check_no_pipe, local_url
from icf_avs.media.downmix import to_mono


def read_audio(source: Path | bytes, rate: int, advice: str = "") -> tuple[np.ndarray, int]:
    """float32 [n] at `rate` Hz, and the rate it is stored at (Hz). source: a file, or its bytes.

    Raises UserError, with `advice`, if it holds no sound.
    """
    label, advice = f"{len(source)} bytes" if isinstance(source, bytes) else source, advice and f"; {advice}"
    if not isinstance(source, bytes):
        check_no_pipe(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else local_url(source)
        with av.open(file, options={} if isinstance(source, bytes) else {"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise UserError(f"{label}: no sound in it{advice}")
            stored = container.streams.audio[0].rate
            # Channels are kept here: the resampler's own mixing does not take their mean.
            resampler = av.AudioResampler("fltp", None, rate)
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            parts += resampler.resample(None) if parts else []
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be decoded as sound ({reason}){advice}") from error
    if not parts:
        raise UserError(f"{label}: its sound is empty{advice}")
    return np.concatenate([*to_mono((part.to_ndarray() for part in parts), rate)]).astype(np.float32), stored


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
