"""EfficientAT: front end against NumPy, and network against published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tagger_weights import published_weights
from torch import Tensor

from icf_avs.encoders.efficientat import EfficientAT, load_efficientat
from icf_avs.encoders.open_vocab_encoder import audioset_names
from icf_avs.media.audio_file import resample
from icf_avs.media.efficientat_frontend import kaldi_log_mel

GOLDEN = json.loads((Path(__file__).parent / "golden" / "efficientat.json").read_text())


def waves(count: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(5))


def numpy_log_mel(wave: NDArray) -> NDArray:
    """[n] -> [128, frames], frame by frame and filter by filter, as in Kaldi's documentation."""
    sharp = wave[1:] - 0.97 * wave[:-1]
    mirrored = np.concatenate([sharp[512:0:-1], sharp, sharp[-2:-514:-1]])
    window = np.zeros(1024)
    window[112:912] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799)
    frames = np.stack([mirrored[at : at + 1024] * window for at in range(0, len(sharp) + 1, 320)])
    power = np.abs(np.fft.fft(frames)[:, :513]) ** 2
    mels = 1127 * np.log(1 + np.arange(513) * 31.25 / 700)
    step = 1127 * np.log(1 + 15_000 / 700) / 129
    bank = np.stack([np.maximum(0, 1 - np.abs(mels - (band + 1) * step) / step) for band in range(128)])
    return (np.log(bank @ power.T + 1e-5) + 4.5) / 5


@pytest.mark.parametrize("samples", [514, 32_000, 48_123])
def test_the_front_end_equals_a_numpy_one(samples: int) -> None:
    wave = waves(2, samples)
    mel = kaldi_log_mel(wave)
    assert mel.shape == (2, 128, 1 + (samples - 1) // 320)
    expected = np.stack([numpy_log_mel(one.double().numpy()) for one in wave])
    assert np.abs(mel.numpy() - expected).max() < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kaldi_log_mel(wave), mel)
    with pytest.raises(ValueError, match="513 samples are too few"):
        kaldi_log_mel(wave[:, :513])


def test_sizes_equal_the_published_file_of_mn10() -> None:
    """The counts are known from code that pins the file."""
    network = EfficientAT(width=1.0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_876_831
    state = network.state_dict().values()
    assert len(state) == 312 and sum(tensor.numel() for tensor in state) == 4_901_277


@pytest.mark.parametrize(("rate", "to"), [(16_000, 32_000), (32_000, 16_000), (22_050, 32_000)])
def test_resampling_keeps_tones_below_nyquist_and_drops_those_above(rate: int, to: int) -> None:
    time, later = np.arange(12_345) / rate, np.arange(-(-12_345 * to // rate)) / to
    for hertz, tolerance in ((60.0, 2e-5), (1234.5, 2e-5), (0.4 * min(rate, to), 1e-3)):
        found = resample(torch.from_numpy(np.sin(2 * np.pi * hertz * time)).float(), rate, to).numpy()
        assert np.abs(found - np.sin(2 * np.pi * hertz * later))[500:-500].max() < tolerance
    if to < rate:
        alias = resample(torch.from_numpy(np.sin(2 * np.pi * 0.56 * to * time)).float(), rate, to)
        assert alias[500:-500].abs().max() < 1e-3


@torch.no_grad()
def test_equals_the_published_network() -> None:
    """On a rising tone in a little noise. Silence is tagged as such."""
    published = load_efficientat(published_weights())
    for window in GOLDEN["windows"]:
        time = np.arange(round(window["seconds"] * 32_000)) / 32_000
        noise = np.random.default_rng(7).standard_normal(len(time))
        wave = 0.3 * np.sin(2 * np.pi * (200 * time + 900 * time**2)) + 0.02 * noise
        logits, embedding = published(torch.from_numpy(wave.astype(np.float32))[None])
        values, order = logits[0].topk(5)
        assert [audioset_names()[i] for i in order.tolist()] == list(window["top"])
        assert values.tolist() == pytest.approx(list(window["top"].values()), abs=1e-3)
        assert logits[0, ::50].tolist() == pytest.approx(window["every_50th_logit"], abs=1e-3)
        assert embedding[0, ::40].tolist() == pytest.approx(window["every_40th_of_embedding"], abs=1e-3)
    logits, _ = published(torch.zeros(1, 64_000))
    assert audioset_names()[int(logits[0].argmax())] == "Silence"
    assert published.frozen and not any(module.training for module in published.train().modules())
    # Windows of any rate; batch members are independent.
    other, low = load_efficientat(published_weights(), sample_rate=16_000), waves(2, 15_600)
    alone = [published(each)[1] for each in resample(low, 16_000, 32_000).split(1)]
    torch.testing.assert_close(other(low)[1], torch.cat(alone), rtol=1e-4, atol=1e-4)
