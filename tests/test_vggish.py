"""VGGish against a NumPy forward pass in TensorFlow's layout, its weights files and its adapter; log-mel input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from icf_avs.encoders import vggish
from icf_avs.encoders.logmel_cnn import LogMelEncoder, as_log_mel
from icf_avs.encoders.vggish import VGGish, VGGishAudio, load_vggish, load_vggish_audio
from icf_avs.errors import UserError
from icf_avs.media.vggish_frontend import log_mel

SHAPES = {  # in the public weights file
    "features.0": (64, 1, 3, 3), "features.3": (128, 64, 3, 3), "features.6": (256, 128, 3, 3),
    "features.8": (256, 256, 3, 3), "features.11": (512, 256, 3, 3), "features.13": (512, 512, 3, 3),
    "embeddings.0": (4096, 12288), "embeddings.2": (4096, 4096), "embeddings.4": (128, 4096),
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> VGGish:
    torch.manual_seed(3)
    network = VGGish()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # so that no activation vanishes, and biases matter
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def waves(count: int = 2) -> Tensor:
    return 0.2 * torch.randn(count, 15_600, generator=torch.Generator().manual_seed(5))


def convolve(x: NDArray, weight: NDArray, bias: NDArray) -> NDArray:
    """x [H,W,C], weight [O,C,3,3], zero padding -> [H,W,O] after ReLU."""
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    y = sum(padded[i : i + height, j : j + width] @ weight[:, :, i, j].T for i in range(3) for j in range(3))
    return np.maximum(y + bias, 0)


def pool(x: NDArray) -> NDArray:
    return np.maximum.reduce([x[i::2, j::2] for i in range(2) for j in range(2)])


def test_every_layer_equals_a_numpy_forward_pass(network: VGGish) -> None:
    seen: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output[0]}))
    mel = log_mel(waves(1))
    with torch.no_grad():
        embedding = network(mel)[0]
    state = {key: value.numpy() for key, value in network.state_dict().items()}

    expected: dict[str, NDArray] = {}
    x = mel[0].numpy()[:, :, None]
    for layers in ((0,), (3,), (6, 8), (11, 13)):
        for index in layers:
            x = convolve(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"])
            if index != layers[-1]:
                expected[f"features.{index + 1}"] = x.transpose(2, 0, 1)
        x = pool(x)
        expected[f"features.{layers[-1] + 2}"] = x.transpose(2, 0, 1)
    assert x.shape == (6, 4, 512)
    x = x.reshape(-1)  # height, width, channel
    for index in (0, 2, 4):
        x = np.maximum(state[f"embeddings.{index}.weight"] @ x + state[f"embeddings.{index}.bias"], 0)
        expected[f"embeddings.{index + 1}"] = x

    assert set(seen) == set(expected)
    for name, values in expected.items():
        error = np.abs(seen[name].numpy() - values).max() / np.abs(values).max()
        assert error < 1e-4, (name, error)
    assert np.allclose(embedding.numpy(), x, rtol=1e-3, atol=1e-3 * x.max())
    assert 0.2 < (x > 0).mean() < 0.8  # the last ReLU is kept


def test_tensors_and_parameter_count_match_the_public_file(network: VGGish) -> None:
    expected = {key: value.shape for key, value in small_state().items()}
    assert {key: value.shape for key, value in network.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in network.parameters()) == 72_141_184


def small_state() -> dict[str, Tensor]:
    """Tensors of the public file's shapes, each one expanded number, which takes no disk space."""
    shapes = [(f"{k}.weight", s) for k, s in SHAPES.items()] + [(f"{k}.bias", s[:1]) for k, s in SHAPES.items()]
    return {key: torch.full((1,), float(index)).expand(shape) for index, (key, shape) in enumerate(shapes)}


def test_only_the_known_file_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = tmp_path / "vggish-10086976.pth", small_state()
    torch.save(state, path)
    loaded = load_vggish(path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items()) and len(loaded) == 18
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path))
    assert load_vggish().state_dict()["embeddings.4.bias"].unique().tolist() == [17.0]

    for wrong in ({**state, "pca": torch.zeros(1)}, {"features.0.weight": state["features.0.weight"]}, {"a": 1}, [1]):
        torch.save(wrong, path)
        with pytest.raises(UserError, match="not the weights of VGGish"):
            load_vggish(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not the weights of VGGish"):
        load_vggish(path)


def test_safetensors_load(tmp_path: Path) -> None:
    path, state = tmp_path / "vggish.safetensors", small_state()
    save_file({key: value.half().contiguous() for key, value in state.items()}, path)
    loaded = load_vggish(path).state_dict()
    path.unlink()  # 144 MB
    assert all(torch.equal(loaded[key], value) and value.dtype == torch.float32 for key, value in state.items())


def test_the_adapter_accepts_waveforms_and_log_mel(network: VGGish) -> None:
    adapter = VGGishAudio(24, network).train()
    sound = waves()
    token, tokens = adapter(sound)
    assert token.shape == (2, 24) and tokens.shape == (2, 6, 24)
    again = adapter(log_mel(sound))
    assert torch.equal(token, again[0]) and torch.equal(tokens, again[1])

    late = log_mel(sound).clone()
    late[:, 80:] = 0.0  # the last token covers frames 80 to 95; convolutions also reach into its neighbours
    changed = (adapter(late)[1] - tokens).abs().amax((0, 2)) > 1e-6
    assert changed.tolist()[-1] and not changed[:3].any()

    (token.square().sum() + (tokens - 1).square().sum()).backward()
    trained = {key for key, value in adapter.named_parameters() if value.grad is not None}
    assert trained == {key for key in dict(adapter.named_parameters()) if key.startswith("project_")}
    with pytest.raises(ValueError, match="windows of 96 x 64"):
        adapter(torch.zeros(1, 16_000))


def test_without_a_projection_the_adapter_equals_vggish(network: VGGish) -> None:
    bare = VGGishAudio(None, network)
    token, tokens = bare(waves())
    assert torch.equal(token, network(log_mel(waves()))) and tokens.shape == (2, 6, 2048)
    assert {key.partition(".")[0] for key in bare.state_dict()} == {"vggish"}


def test_all_parameters_of_an_unfrozen_vggish_train(network: VGGish) -> None:
    adapter = load_vggish_audio(8, random=True, frozen=False)
    assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_log_mel_encoder_accepts_log_mel() -> None:
    torch.manual_seed(0)
    encoder, sound = LogMelEncoder(16), waves()
    assert all(torch.equal(a, b) for a, b in zip(encoder(sound), encoder(log_mel(sound)), strict=True))
    assert as_log_mel(torch.zeros(3, 5, 15_600)).shape == (3, 5, 96, 64)


def test_the_name_of_the_published_file_ends_with_its_hash() -> None:
    """As usual for torch.hub: the first eight digits of the SHA-256."""
    assert vggish.URL.removesuffix(".pth").endswith(f"-{vggish.SHA256[:8]}")
