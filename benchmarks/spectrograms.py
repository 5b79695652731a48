"""(d) Log-mel spectrogram of a minute of audio in windows: ours against librosa and NumPy.

librosa pads each frame to the FFT size on both sides, VGGish's front end on one side, and both sum the same bands. The
work is the same. If librosa is not installed, its row is left out and a message is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from icf_avs.media.vggish_frontend import (
    BANDS,
    FFT,
    FRAME,
    HIGH_HZ,
    HOP,
    LOG_OFFSET,
    LOW_HZ,
    SAMPLE_RATE,
    WINDOW,
    log_mel,
)


def filters() -> np.ndarray:
    """Return [257, 64] HTK triangular filters, linear in mel, from the formula."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = mel(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1))
    edges = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), BANDS + 2)
    bank = np.stack([np.interp(bins, edges[i : i + 3], (0, 1, 0), 0, 0) for i in range(BANDS)], axis=1)
    bank[0] = 0
    return bank.astype(np.float32)


def by_numpy(waves: np.ndarray, bank: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Compute log-mel with NumPy: waves [n, samples] -> [n, frames, 64]."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, FRAME, axis=-1)[:, ::HOP]
    return np.log(np.abs(np.fft.rfft(frames * window, FFT)) @ bank + LOG_OFFSET)


def spectrograms(machine: Machine, count: int = 60) -> Iterator[Row]:
    """Yield rows log-mel."""
    waves = np.random.default_rng(0).normal(0, 0.1, (count, WINDOW)).astype(np.float32)
    bank, window = filters(), np.hanning(FRAME + 1)[:-1].astype(np.float32)
    given = torch.from_numpy(waves)
    programs = [lambda: log_mel(given), lambda: by_numpy(waves, bank, window)]
    try:
        import librosa
    except ModuleNotFoundError:
        print("log-mel: librosa is not installed, its row is left out", file=sys.stderr)
    else:
        options = {
            "sr": SAMPLE_RATE,
            "n_fft": FFT,
            "win_length": FRAME,
            "hop_length": HOP,
            "center": False,
            "power": 1.0,
        }
        bands = {"n_mels": BANDS, "fmin": LOW_HZ, "fmax": HIGH_HZ, "htk": True, "norm": None}
        programs.append(lambda: np.log(librosa.feature.melspectrogram(y=waves, **options, **bands) + LOG_OFFSET))
    mine, direct, *theirs = seconds(machine, *programs)
    yield row("log-mel", mine, direct, "NumPy", machine, f"s/{count} windows")
    if theirs:
        yield row("log-mel", mine, theirs[0], "librosa", machine, f"s/{count} windows")
