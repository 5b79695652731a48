"""EfficientAT: front end against NumPy, network against published numbers, and sources of its weights."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tagger_weights import FILE, published_weights
from torch import Tensor, nn

from icf_avs.encoders import efficientat
from icf_avs.encoders.efficientat import EfficientAT, load_efficientat
from icf_avs.encoders.open_vocab_encoder import audioset_names, imagenet_names
from icf_avs.encoders.weights import released_file
from icf_avs.errors import UserError
from icf_avs.media.audio_file import resample
from icf_avs.media.efficientat_frontend import kaldi_log_mel

GOLDEN = json.loads((Path(__file__).parent / "golden" / "efficientat.json").read_text())


@pytest.fixture(scope="module")
def published() -> EfficientAT:
    return load_efficientat(published_weights())


@pytest.fixture(scope="module")
def network() -> EfficientAT:
    """Random weights, no tensor at its neutral value, activations of ordinary size."""
    torch.manual_seed(3)
    network = EfficientAT()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # statistics are those of the next pass
    with torch.no_grad():
        network.train()(waves(4, 16_000))
    return network.eval()


def waves(count: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(5))


# The front end again, in NumPy and float64.


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


@pytest.mark.parametrize("samples", [514, 32_000, 32_001, 48_123])
def test_the_front_end_equals_a_numpy_one(samples: int) -> None:
    wave = waves(2, samples)
    mel = kaldi_log_mel(wave)
    assert mel.shape == (2, 128, 1 + (samples - 1) // 320)
    expected = np.stack([numpy_log_mel(one.double().numpy()) for one in wave])
    assert np.abs(mel.numpy() - expected).max() < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kaldi_log_mel(wave), mel)


def test_a_wave_too_short_for_a_spectrogram_is_refused() -> None:
    with pytest.raises(ValueError, match="513 samples are too few"):
        kaldi_log_mel(torch.zeros(513))


@pytest.mark.parametrize(("width", "parameters", "numbers"), [(0.4, 983_599, 993_485), (1.0, 4_876_831, 4_901_277)])
def test_sizes_equal_the_published_files(width: float, parameters: int, numbers: int) -> None:
    """The counts of mn10 are known from code that pins the file."""
    network = EfficientAT(width=width)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    state = network.state_dict().values()
    assert len(state) == 312 and sum(tensor.numel() for tensor in state) == numbers


@pytest.mark.parametrize(("rate", "seconds", "steps"), [(32_000, 1, 4), (16_000, 0.975, 4), (32_000, 10, 32)])
def test_windows_of_any_length_and_rate(network: EfficientAT, rate: int, seconds: float, steps: int) -> None:
    ear = EfficientAT(rate).eval()
    ear.load_state_dict(network.state_dict())
    sound = waves(2, round(seconds * rate))
    with torch.no_grad():
        logits, embedding = ear(sound)
        assert logits.shape == (2, 527) and embedding.shape == (2, 384)
        assert ear.maps(sound).shape == (2, 384, 4, steps)
        for index in range(2):  # batch members are independent
            alone = ear(sound[index : index + 1])
            assert torch.allclose(alone[0][0], logits[index], rtol=1e-4, atol=1e-4 * logits.abs().max())
            assert torch.allclose(alone[1][0], embedding[index], rtol=1e-4, atol=1e-4 * embedding.abs().max())
    network.sample_rate = 32_000


def test_silence_and_clipping_stay_finite(network: EfficientAT) -> None:
    clipped = torch.sign(waves(1, 32_000)) * 1.0
    for sound in (torch.zeros(1, 32_000), torch.ones(1, 32_000), clipped, 100 * clipped):
        with torch.no_grad():
            assert all(output.isfinite().all() for output in network(sound))


def test_frozen_never_trains_and_unfrozen_learns() -> None:
    frozen = EfficientAT(frozen=True).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    free = EfficientAT().train()
    free(waves(2, 8_000))[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in free.parameters())


@pytest.mark.parametrize(("rate", "to"), [(16_000, 32_000), (32_000, 16_000), (44_100, 32_000), (22_050, 32_000)])
def test_resampling_keeps_tones_below_nyquist_and_drops_those_above(rate: int, to: int) -> None:
    time, later = np.arange(12_345) / rate, np.arange(-(-12_345 * to // rate)) / to
    lower = min(rate, to)
    for hertz, tolerance in ((60.0, 2e-5), (1234.5, 2e-5), (0.4 * lower, 1e-3)):
        tone = torch.from_numpy(np.stack([np.sin(2 * np.pi * hertz * time), np.cos(2 * np.pi * hertz * time)])).float()
        heard = resample(tone, rate, to)
        assert heard.shape == (2, len(later))
        expected = np.stack([np.sin(2 * np.pi * hertz * later), np.cos(2 * np.pi * hertz * later)])
        assert np.abs(heard.numpy() - expected)[:, 500:-500].max() < tolerance
    if to < rate:
        alias = resample(torch.from_numpy(np.sin(2 * np.pi * 0.56 * to * time)).float(), rate, to)
        assert alias[500:-500].abs().max() < 1e-3


def test_resampling_leaves_an_equal_rate_alone_and_refuses_none() -> None:
    wave = waves(1, 100)
    assert resample(wave, 16_000, 16_000) is wave
    with pytest.raises(ValueError, match="must be positive"):
        resample(wave, 0, 16_000)


# With the published weights.


def golden_wave(seconds: float) -> Tensor:
    """A rising tone in a little noise."""
    time = np.arange(round(seconds * 32_000)) / 32_000
    noise = np.random.default_rng(7).standard_normal(len(time))
    wave = 0.3 * np.sin(2 * np.pi * (200 * time + 900 * time**2)) + 0.02 * noise
    return torch.from_numpy(wave.astype(np.float32))


@pytest.mark.parametrize("window", GOLDEN["windows"], ids=lambda window: f"{window['seconds']} s")
def test_equals_the_published_network(published: EfficientAT, window: dict) -> None:
    with torch.no_grad():
        logits, embedding = published(golden_wave(window["seconds"])[None])
    values, order = logits[0].topk(5)
    assert [audioset_names()[i] for i in order.tolist()] == list(window["top"])
    assert values.tolist() == pytest.approx(list(window["top"].values()), abs=1e-3)
    assert logits[0, ::50].tolist() == pytest.approx(window["every_50th_logit"], abs=1e-3)
    assert embedding[0, ::40].tolist() == pytest.approx(window["every_40th_of_embedding"], abs=1e-3)


def test_16_khz_gives_the_embedding_of_32_khz(published: EfficientAT) -> None:
    """Audio without content above 8 kHz has the same embedding at 16 and 32 kHz."""
    low = resample(golden_wave(3.0)[None], 32_000, 16_000)
    again = load_efficientat(published_weights(), sample_rate=16_000)
    with torch.no_grad():
        there, here = published(resample(low, 16_000, 32_000))[1], again(low)[1]
    assert torch.equal(there, here)
    assert again.frozen and published.frozen


def test_silence_is_tagged_silence(published: EfficientAT) -> None:
    with torch.no_grad():
        logits, _ = published(torch.zeros(1, 64_000))
    assert audioset_names()[int(logits[0].argmax())] == "Silence"


# Names and files.


def test_class_names_are_complete_and_in_order() -> None:
    names = audioset_names()
    assert len(names) == len(set(names)) == 527
    assert [names[i] for i in (0, 1, 74, 526)] == ["Speech", "Male speech, man speaking", "Dog", "Field recording"]
    classes = imagenet_names()
    assert len(classes) == 1000 and "background" not in classes
    assert [classes[i].partition(",")[0] for i in (0, 8, 555, 889, 999)] == [
        "tench", "hen", "fire engine", "violin", "toilet tissue"
    ]  # fmt: skip


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    state = EfficientAT().state_dict()
    for wrong in ({"a": torch.zeros(1)}, {**state, "more": torch.zeros(1)}, [1]):
        torch.save(wrong, path)
        with pytest.raises(UserError, match=r"mn04_as_mAP_432.pt: not the weights of EfficientAT mn04"):
            load_efficientat(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not the weights"):
        load_efficientat(path)
    torch.save(state, path)
    assert all(torch.equal(value, state[key]) for key, value in load_efficientat(path).state_dict().items())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address and folder of a local web server; no weights on the machine."""
    for name in ("ICF_WEIGHTS_DIR", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


def test_weights_are_downloaded_once_and_checked(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    content = os.urandom(300_000)
    (folder / "x.pt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path = released_file("X", f"{address}/x.pt", digest)
    assert path == tmp_path / "hub" / "checkpoints" / "x.pt" and path.read_bytes() == content
    (folder / "x.pt").unlink()
    assert released_file("X", f"{address}/x.pt", digest) == path

    path.unlink()
    (folder / "x.pt").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"weights of X .*SHA-256 differs.*curl -L --create-dirs -o weights/x.pt http"):
        released_file("X", f"{address}/x.pt", digest)
    assert not list(path.parent.iterdir())


def test_failed_downloads_say_what_to_do(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = site
    told = r"X are not here .*\(File not found\); get them with: curl .* ICF_WEIGHTS_DIR=w"
    with pytest.raises(UserError, match=told):
        released_file("X", f"{address}/none.pt", "0")
    with pytest.raises(UserError, match="cannot be downloaded"):
        released_file("X", "http://127.0.0.1:9/x.pt", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set") as caught:
        load_efficientat()
    assert f"curl -L --create-dirs -o weights/{FILE} {efficientat.URL}/{FILE}" in str(caught.value)


def test_named_files_and_folders_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
        (folder / "x.pt").write_text("")
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(own))
    url = "http://127.0.0.1:9/x.pt"
    assert released_file("X", url, "0") == own / "x.pt"
    assert released_file("X", url, "0", other) == other / "x.pt"
    assert released_file("X", url, "0", other / "x.pt") == other / "x.pt"
    with pytest.raises(UserError, match=r"other/y.pt: no such file of weights of X; get it with: curl"):
        released_file("X", url, "0", other / "y.pt")
