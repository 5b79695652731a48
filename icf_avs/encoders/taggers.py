"""Audio taggers with AudioSet's 527 classes: EfficientAT mn04 and mn10, and AST.

EfficientAT: MobileNetV3-Large (Howard et al., arXiv 1905.02244) at width 0.4 or 1, of 0.98 M and 4.9 M parameters, over
a log-mel spectrogram, with a plain sigmoid in its squeeze-and-excitation. Weights: Schmid, Koutini and Widmer
(arXiv 2211.04772), release v0.0.1 (MIT), distilled on AudioSet from larger teachers; the file names contain the mAP.
Front end, Kaldi-style at 32 kHz: pre-emphasis x[t] - 0.97 x[t-1]; frames of 800 samples every 320, symmetric Hann
window, centred, reflect padding; power of a 1024-point FFT; 128 bands from 0 to 15000 Hz, triangles linear in mel;
(log(mel + 1e-5) + 4.5) / 5.

AST: Gong, Chung and Glass (arXiv 2104.01778), a transformer of 86 M parameters over patches of a log-mel spectrogram,
from the library transformers. Weights: MIT/ast-finetuned-audioset-10-10-0.4593 (BSD-3-Clause). The classifier was
trained on the two global tokens; here it is applied to the mean patch token of each time step, as in class activation
mapping. Not yet run with its weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icf_avs.encoders.weights import (
    download_command,
    model_folder,
    read_pretrained,
    released_file,
    require_transformers,
    weight_loading_errors,
)
from icf_avs.errors import UserError
from icf_avs.media.audio_file import resample
from icf_avs.media.vggish_frontend import mel_filters

TAGGERS = ("efficientat", "efficientat-mn10", "ast")
TAGS = 527
SAMPLE_RATE = 32_000  # Hz, of the waveforms of all taggers
FRAME, HOP, FFT, BANDS = 800, 320, 1024, 128
PRE_EMPHASIS, LOG_OFFSET, LEVEL, SCALE = 0.97, 1e-5, 4.5, 5.0
# MobileNetV3-Large at width 1: kernel, expanded channels, output channels, squeeze-and-excitation, hard-swish, stride.
BLOCKS = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
# By name: width, file of release v0.0.1, and its SHA-256 (for mn10, as pinned in several public code bases).
RELEASED = {
    "mn04": (0.4, "mn04_as_mAP_432.pt", "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"),
    "mn10": (1.0, "mn10_as_mAP_471.pt", "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e"),
}
URL = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
AST_REPO = "MIT/ast-finetuned-audioset-10-10-0.4593"
_AST_RATE, _AST_HOP = 16_000, 0.01  # Hz; seconds between frames of its spectrogram
_RENAMED = (("conc_se_layers.0.", ""), ("classifier.2.", "classifier.0."), ("classifier.5.", "classifier.3."))


def _make_divisible(channels: float) -> int:
    """Round to the nearest multiple of 8, at least 8 and at least 90 % of the input, as in MobileNet's code."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    return nn.Sequential(convolution, norm, *([activation] if activation else []))


class SqueezeExcitation(nn.Module):
    """Channel attention from globally pooled features (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        attention = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))  # N C
        return x * attention[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise (k x k), squeeze-and-excitation, project (1x1); residual if `skip`."""

    def __init__(self, layers: list[nn.Module], skip: bool) -> None:
        super().__init__()
        self.block, self.skip = nn.Sequential(*layers), skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.skip else self.block(x)


def mel_bank() -> Tensor:
    """Return triangular mel filters from 0 to 15000 Hz, [128, 513]."""
    return mel_filters(SAMPLE_RATE, FFT, BANDS, 0.0, 15_000.0).T.contiguous()


def kaldi_log_mel(waves: Tensor) -> Tensor:
    """Log-mel of waveforms [N, n], n at least 514, float32 at 32 kHz in [-1, 1] -> [N, 128, 1 + (n - 1) // 320]; 100
    frames/s. Computed in float32 even under autocast.
    """
    with torch.autocast(waves.device.type, enabled=False):
        emphasised = waves[:, 1:] - PRE_EMPHASIS * waves[:, :-1]
        window = torch.hann_window(FRAME, periodic=False, device=waves.device)
        spectrum = torch.stft(emphasised, FFT, HOP, FRAME, window, center=True, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (torch.log(mel_bank().to(waves.device) @ power + LOG_OFFSET) + LEVEL) / SCALE


class EfficientAT(nn.Module):
    """Frozen tagger for WordTagger. Multi-label: the probability of a tag is the sigmoid of its logit."""

    step = 0.32  # seconds per column of the last map

    def __init__(self, width: float = 0.4) -> None:
        super().__init__()
        first, last, hidden = (_make_divisible(channels * width) for channels in (16, 160, 1280))
        layers: list[nn.Module] = [_convolution(1, first, 3, 2, activation=nn.Hardswish())]
        inputs = first
        for kernel, wide, narrow, squeeze, hard_swish, stride in BLOCKS:
            expanded, outputs = _make_divisible(wide * width), _make_divisible(narrow * width)
            activation = nn.Hardswish() if hard_swish else nn.ReLU()
            block = [_convolution(inputs, expanded, 1, activation=activation)] if expanded != inputs else []
            block.append(_convolution(expanded, expanded, kernel, stride, expanded, activation))
            block += [SqueezeExcitation(expanded, _make_divisible(expanded // 4))] if squeeze else []
            block.append(_convolution(expanded, outputs, 1))
            layers.append(InvertedResidual(block, stride == 1 and inputs == outputs))
            inputs = outputs
        layers.append(_convolution(inputs, 6 * last, 1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        head = nn.Linear(6 * last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, TAGS)
        self.classifier = nn.Sequential(*head)
        self.log_mel = kaldi_log_mel  # replaced in an exported graph
        self.eval().requires_grad_(False)

    def columns(self, waves: Tensor) -> Tensor:
        """Encode waveforms [N, n] at 32 kHz -> last feature map, averaged over frequency [N, 960 width, L]."""
        return self.features(self.log_mel(waves)[:, None]).mean(2)

    def train(self, mode: bool = True) -> EfficientAT:
        """Stay in evaluation mode: the network is frozen."""
        return super().train(False)


def fetch_weights(weights: str | Path | None = None, name: str = "mn04") -> Path:
    """Return the path of the weights file, downloaded if needed; see weights.released_file."""
    _, file, sha256 = RELEASED[name]
    return released_file(f"EfficientAT {name}", f"{URL}/{file}", sha256, weights)


def load_efficientat(weights: str | Path | None = None, random: bool = False, name: str = "mn04") -> EfficientAT:
    """Load the pretrained network; every entry of the state dict must be used. random: no weights.

    weights: the file or a folder with it; None: see weights.released_file. Raises UserError if the file is missing or
    belongs to another network.
    """
    network = EfficientAT(RELEASED[name][0])
    if random:
        return network
    path = fetch_weights(weights, name)
    with weight_loading_errors(path, f"EfficientAT {name}"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        for published, ours in _RENAMED:
            state = {key.replace(published, ours): value for key, value in state.items()}
        network.load_state_dict(state)
    return network.to(memory_format=torch.channels_last)  # a third faster on a CPU


class AST(nn.Module):
    """AST tagger for WordTagger. network: ASTForAudioClassification."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        from transformers import ASTFeatureExtractor

        self.network, config = network.eval().requires_grad_(False), network.config
        self.step = config.time_stride * _AST_HOP
        self.rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        self.spectrogram = ASTFeatureExtractor(num_mel_bins=config.num_mel_bins, max_length=config.max_length)

    def classifier(self, columns: Tensor) -> Tensor:
        """Classify features [..., D] -> logits [..., 527]."""
        return self.network.classifier(columns)

    def columns(self, waves: Tensor) -> Tensor:
        """Encode waveforms [N, n] at 32 kHz, at most 10.24 s as the network takes -> [N, D, L], a column per 0.1 s."""
        waveforms = list(resample(waves, SAMPLE_RATE, _AST_RATE).cpu().numpy())
        spectrum = self.spectrogram(waveforms, sampling_rate=_AST_RATE, return_tensors="pt").input_values
        patches = self.network.audio_spectrogram_transformer(spectrum.to(waves.device)).last_hidden_state[:, 2:]
        columns = patches.unflatten(1, (self.rows, -1)).mean(1).transpose(1, 2)
        return columns[..., : round(waves.shape[-1] / SAMPLE_RATE / self.step)]

    def train(self, mode: bool = True) -> AST:
        """Stay in evaluation mode."""
        return super().train(False)


def load_ast(random: bool = False) -> AST:
    """Load the published network, see model_folder, which also raises UserError; random: no weights."""
    require_transformers("AST")
    from transformers import ASTConfig, ASTForAudioClassification

    if random:
        return AST(ASTForAudioClassification(ASTConfig(num_labels=TAGS)))
    folder = model_folder(AST_REPO)
    network, missing = read_pretrained(ASTForAudioClassification, folder, AST_REPO)
    if missing:
        raise UserError(f"{folder}: lacks the tensor {missing[0]}; get it with: {download_command(AST_REPO)}")
    return AST(network)


def load_tagger(name: str, random: bool = False) -> nn.Module:
    """Load a tagger of TAGGERS for WordTagger; random: no weights. Raises UserError if the weights are unavailable."""
    if name == "ast":
        return load_ast(random)
    return load_efficientat(random=random, name="mn10" if name == "efficientat-mn10" else "mn04")
