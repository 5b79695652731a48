"""Audio front end of EfficientAT: Kaldi-style log-mel spectrogram at 32 kHz.

Source: EfficientAT (Schmid et al., arXiv 2211.04772). Pre-emphasis x[t] - 0.97 x[t-1]; frames of 800 samples every 320,
symmetric Hann window, centred, reflect padding; power of a 1024-point FFT; 128 bands from 0 to 15000 Hz, triangles
linear in mel; (log(mel + 1e-5) + 4.5) / 5.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from icf_avs.media.vggish_frontend import mel_filters

SAMPLE_RATE = 32_000
FRAME, HOP, FFT, BANDS = 800, 320, 1024, 128
HIGH_HZ = 15_000.0
PRE_EMPHASIS, LOG_OFFSET, LEVEL, SCALE = 0.97, 1e-5, 4.5, 5.0
SHORTEST = FFT // 2 + 2  # samples; minimum for reflect padding by half an FFT


@lru_cache(maxsize=1)
def mel_bank() -> Tensor:
    """Return triangular mel filters from 0 to 15000 Hz, [128, 513]."""
    return mel_filters(SAMPLE_RATE, FFT, BANDS, 0.0, HIGH_HZ).T.contiguous()


def kaldi_log_mel(waveform: Tensor) -> Tensor:
    """Log-mel of waveforms [..., n], float32 at 32 kHz in [-1, 1] -> [..., 128, 1 + (n - 1) // 320]; 100 frames/s.

    Computed in float32 even under autocast. Raises ValueError for a waveform shorter than 514 samples.
    """
    if waveform.shape[-1] < SHORTEST:
        raise ValueError(f"{waveform.shape[-1]} samples are too few for a spectrogram; it takes at least {SHORTEST}")
    with torch.autocast(waveform.device.type, enabled=False):
        emphasised = (waveform[..., 1:] - PRE_EMPHASIS * waveform[..., :-1]).reshape(-1, waveform.shape[-1] - 1)
        window = torch.hann_window(FRAME, periodic=False, device=waveform.device)
        spectrum = torch.stft(emphasised, FFT, HOP, FRAME, window, center=True, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = mel_bank().to(waveform.device) @ power
        return ((torch.log(mel + LOG_OFFSET) + LEVEL) / SCALE).reshape(*waveform.shape[:-1], BANDS, -1)
