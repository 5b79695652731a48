"""VGGish and its front end against NumPy, its weights files and its adapter; log-mel input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_fixtures import log_mel_steps
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from icf_avs.encoders.logmel_cnn import LogMelEncoder
from icf_avs.encoders.vggish import VGGish, VGGishAudio, load_vggish
from icf_avs.errors import UserError
from icf_avs.media.vggish_frontend import WINDOW, WINDOW_FRAMES, log_mel


def test_log_mel_equals_the_definition() -> None:
    noise, time = np.random.default_rng(0).uniform(-1, 1, 2000), np.arange(2000)
    tone, clicks = 0.5 * np.sin(2 * np.pi * 440 * time / 16000), 0.9 * (time % 333 == 0)
    waves = np.stack([noise, tone, clicks, np.zeros(2000), np.full(2000, 0.3)]).astype(np.float32)
    found = log_mel(torch.from_numpy(waves)).numpy()
    np.testing.assert_allclose(found, [log_mel_steps(wave.astype(float)) for wave in waves], atol=2e-3)
    assert [len(log_mel(torch.zeros(samples))) for samples in (400, 559, 560, WINDOW)] == [1, 1, 2, WINDOW_FRAMES]
    with pytest.raises(ValueError, match="399"):
        log_mel(torch.zeros(399))


SHAPES = {  # in the public weights file
    "features.0": (64, 1, 3, 3), "features.3": (128, 64, 3, 3), "features.6": (256, 128, 3, 3),
    "features.8": (256, 256, 3, 3), "features.11": (512, 256, 3, 3), "features.13": (512, 512, 3, 3),
    "embeddings.0": (4096, 12288), "embeddings.2": (4096, 4096), "embeddings.4": (128, 4096),
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> VGGish:
    """Of random weights with which no activation vanishes, and biases matter."""
    torch.manual_seed(3)
    with torch.device("meta"):
        network = VGGish()
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, std=0.3) if name.endswith("bias") else nn.init.kaiming_normal_(parameter)
    return network.eval()


def waves(count: int = 2) -> Tensor:
    return 0.2 * torch.randn(count, WINDOW, generator=torch.Generator().manual_seed(5))


def convolve(x: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    """x [H,W,C], weight [O,C,3,3], zero padding -> [H,W,O] after ReLU."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = sum(padded[i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(3) for j in range(3))
    return np.maximum(y + bias, 0)


@torch.no_grad()
def test_steps_and_embedding_equal_a_numpy_forward_pass(network: VGGish) -> None:
    mel = log_mel(waves(1))
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    x = mel[0].numpy()[:, :, None]
    for layers in ((0,), (3,), (6, 8), (11, 13)):
        for index in layers:
            x = convolve(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"])
        x = np.maximum.reduce([x[i::2, j::2] for i in range(2) for j in range(2)])
    np.testing.assert_allclose(network.steps(mel)[0], x.reshape(6, -1), rtol=0, atol=1e-4 * x.max())
    x = x.reshape(-1)  # height, width, channel
    for index in (0, 2, 4):
        x = np.maximum(state[f"embeddings.{index}.weight"] @ x + state[f"embeddings.{index}.bias"], 0)
    np.testing.assert_allclose(network(mel)[0], x, rtol=1e-3, atol=1e-3 * x.max())
    assert 0.2 < (x > 0).mean() < 0.8  # the last ReLU is kept


def test_only_the_public_tensors_load(network: VGGish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the public file's shapes, each one expanded number, which takes no disk space."""
    shapes = [(f"{k}.weight", s) for k, s in SHAPES.items()] + [(f"{k}.bias", s[:1]) for k, s in SHAPES.items()]
    state = {key: torch.full((1,), float(index)).expand(shape) for index, (key, shape) in enumerate(shapes)}
    assert {key: value.shape for key, value in network.state_dict().items()} == dict(shapes)
    assert sum(parameter.numel() for parameter in network.parameters()) == 72_141_184
    path, tensors = tmp_path / "vggish-10086976.pth", tmp_path / "vggish.safetensors"
    torch.save(state, path)
    save_file({key: value.half().contiguous() for key, value in state.items()}, tensors)
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path))
    for given in (None, tensors):
        loaded = load_vggish(given).state_dict()
        assert all(loaded[key].equal(value) and loaded[key].dtype == value.dtype for key, value in state.items())
    tensors.unlink()  # 144 MB
    torch.save({**state, "pca": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not the weights of VGGish"):
        load_vggish()


def test_the_adapter_accepts_waveforms_and_log_mel(network: VGGish) -> None:
    adapter, sound = VGGishAudio(24, network).train(), waves()
    token, tokens = adapter(sound)
    for encoder in (adapter, LogMelEncoder(16)):
        assert all(map(torch.equal, encoder(sound), encoder(log_mel(sound))))
    (token.square().sum() + (tokens - 1).square().sum()).backward()
    for key, value in adapter.named_parameters():
        assert (value.grad is not None) == key.startswith("project_")
    with pytest.raises(ValueError, match="windows of 96 x 64"):
        adapter(torch.zeros(1, 16_000))
    bare = VGGishAudio(None, network, frozen=False)
    assert all(parameter.requires_grad for parameter in bare.parameters())
    assert torch.equal(bare(sound)[0], network(log_mel(sound))) and bare(sound)[1].shape == (2, 6, 2048)
