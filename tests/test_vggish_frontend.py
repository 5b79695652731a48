"""VGGish's log-mel front end against an independent NumPy version, written from its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icf_avs.media.vggish_frontend import WINDOW, WINDOW_FRAMES, log_mel
from icf_avs.types import ClipSpec


def reference(wave: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram in float64, one frame and band at a time: [n] -> [frames, 64]."""
    mel = lambda hertz: 1127.0 * np.log(1.0 + hertz / 700.0)  # noqa: E731
    edges = [mel(125.0) + i * (mel(7500.0) - mel(125.0)) / 65 for i in range(66)]
    window = [0.5 - 0.5 * np.cos(2 * np.pi * n / 400) for n in range(400)]
    rows = []
    for start in range(0, len(wave) - 400 + 1, 160):
        spectrum = np.abs(np.fft.rfft(wave[start : start + 400].astype(np.float64) * window, 512))
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k in range(1, 257):
                at = mel(k * 16000 / 512)
                if low < at < high:
                    height = (at - low) / (middle - low) if at < middle else (high - at) / (high - middle)
                    total += spectrum[k] * height
            row.append(np.log(total + 0.01))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("kind", ["noise", "tone", "clicks", "silence", "constant"])
def test_equals_the_definition(kind: str) -> None:
    rng = np.random.default_rng(0)
    wave = {
        "noise": rng.uniform(-1, 1, 2000),
        "tone": 0.5 * np.sin(2 * np.pi * 440 * np.arange(2000) / 16000),
        "clicks": (np.arange(2000) % 333 == 0) * 0.9,
        "silence": np.zeros(2000),
        "constant": np.full(2000, 0.3),
    }[kind].astype(np.float32)
    found = log_mel(torch.from_numpy(wave)).numpy()
    assert found.shape == (11, 64)
    np.testing.assert_allclose(found, reference(wave), atol=2e-3)


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (WINDOW, WINDOW_FRAMES), (80_000, 498)])
def test_number_of_frames(samples: int, frames: int) -> None:
    assert log_mel(torch.zeros(2, 3, samples)).shape == (2, 3, frames, 64)


def test_windows_of_clip_specification_and_front_end_agree() -> None:
    assert ClipSpec().window == WINDOW and ClipSpec().sample_rate == 16_000


def test_silence_is_the_logarithm_of_the_offset() -> None:
    assert torch.allclose(log_mel(torch.zeros(WINDOW)), torch.log(torch.tensor(0.01)))


def test_too_short_waveforms_are_refused() -> None:
    with pytest.raises(ValueError, match="399"):
        log_mel(torch.zeros(399))


def test_waveforms_of_a_batch_are_independent() -> None:
    waves = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(log_mel(waves)[1], log_mel(waves[1]), atol=1e-5)
