"""Audio front end of VGGish: log-mel spectrogram at 16 kHz.

Source: PROTOCOLS, audio front end. 16 kHz mono in [-1, 1]; frames of 400 samples every 160, no padding, periodic Hann
window; magnitude of a 512-point FFT; 64 HTK mel bands from 125 to 7500 Hz, triangles linear in mel; log(mel + 0.01).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
FRAME, HOP, FFT, BANDS = 400, 160, 512, 64
LOW_HZ, HIGH_HZ, LOG_OFFSET = 125.0, 7500.0, 0.01
MEL_BINS = slice(int(LOW_HZ * FFT / SAMPLE_RATE) + 1, math.ceil(HIGH_HZ * FFT / SAMPLE_RATE))  # bins within the bands
WINDOW_FRAMES = 96
_BLOCK = 64_000  # samples per batch on a CPU, so that intermediate results stay in its cache
WINDOW = FRAME + (WINDOW_FRAMES - 1) * HOP  # 15600 samples, 0.975 s


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


@lru_cache(maxsize=2)
def mel_filters(
    sample_rate: int = SAMPLE_RATE, fft: int = FFT, bands: int = BANDS, low_hz: float = LOW_HZ, high_hz: float = HIGH_HZ
) -> Tensor:
    """Return triangular mel filters [fft / 2 + 1, bands]; the row of 0 Hz is zero."""
    bins = _mel(torch.linspace(0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64))[:, None]
    low, high = _mel(torch.tensor([low_hz, high_hz], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, bands + 2, dtype=torch.float64)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(waveform: Tensor) -> Tensor:
    """Log-mel of waveforms [..., n], float32 at 16 kHz -> [..., 1 + (n - 400) // 160, 64]. A window of 15600 samples
    gives 96 frames.

    Raises ValueError if the waveform is shorter than one frame.
    """
    if waveform.shape[-1] < FRAME:
        raise ValueError(f"{waveform.shape[-1]} samples are less than one spectrogram frame ({FRAME})")
    waves = waveform.reshape(-1, waveform.shape[-1])
    batch_size = max(1, _BLOCK // waveform.shape[-1]) if waveform.device.type == "cpu" else max(1, len(waves))
    mel = torch.cat([_log_mel(batch) for batch in waves.split(batch_size)])
    return mel.reshape(*waveform.shape[:-1], *mel.shape[1:])


def _log_mel(waves: Tensor) -> Tensor:
    """Log-mel of waveforms [N, n] -> [N, frames, 64]."""
    frames = waves.unfold(-1, FRAME, HOP) * torch.hann_window(FRAME, periodic=True, device=waves.device)
    spectrum = torch.fft.rfft(frames, FFT)[..., MEL_BINS]
    # In-place operations instead of abs(), which guards against overflow and takes twice as long.
    magnitude = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).sqrt_()
    return (magnitude @ mel_filters()[MEL_BINS].to(waves.device)).add_(LOG_OFFSET).log_()
