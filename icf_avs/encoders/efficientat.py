"""Audio taggers: EfficientAT mn04 and mn10, MobileNetV3 of 0.98 M and 4.9 M parameters with AudioSet's 527 classes.

Architecture: Howard et al., MobileNetV3-Large (arXiv 1905.02244) at width 0.4 or 1 over a log-mel spectrogram, with a
plain sigmoid in its squeeze-and-excitation. Weights: Schmid, Koutini and Widmer, EfficientAT (arXiv 2211.04772),
release v0.0.1 (MIT), distilled on AudioSet from larger teachers; the file names contain the mAP.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from icf_avs.encoders.weights import released_file, weight_loading_errors
from icf_avs.media.audio_file import resample
from icf_avs.media.efficientat_frontend import SAMPLE_RATE, kaldi_log_mel

# MobileNetV3-Large at width 1: kernel, expanded channels, output channels, squeeze-and-excitation, hard-swish, stride.
BLOCKS = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
TAGS = 527
# By name: width, file of release v0.0.1, and its SHA-256 (for mn10, as pinned in several public code bases).
RELEASED = {
    "mn04": (0.4, "mn04_as_mAP_432.pt", "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"),
    "mn10": (1.0, "mn10_as_mAP_471.pt", "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e"),
}
URL = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
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
        weights = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))  # N C
        return x * weights[:, :, None, None]


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise (k x k), squeeze-and-excitation, project (1x1); residual if the shapes match."""

    def __init__(
        self, inputs: int, kernel: int, expanded: int, outputs: int, squeezed: int, hard_swish: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish() if hard_swish else nn.ReLU()
        layers = [_convolution(inputs, expanded, 1, activation=activation)] if expanded != inputs else []
        layers.append(_convolution(expanded, expanded, kernel, stride, expanded, activation))
        if squeezed:
            layers.append(SqueezeExcitation(expanded, squeezed))
        self.block = nn.Sequential(*layers, _convolution(expanded, outputs, 1))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.skip else self.block(x)


class EfficientAT(nn.Module):
    """Tagger: waveforms [N, n], n at least 514 samples at 32 kHz -> (logits [N, 527], embedding [N, 960 width]).

    Multi-label: the probability of a tag is the sigmoid of its logit. sample_rate: of the input waveforms, in Hz; rates
    other than 32000 are resampled. frozen: always in evaluation mode, whatever the mode of the surrounding model.
    """

    step = 0.32  # seconds per column of the last map

    def __init__(self, sample_rate: int = SAMPLE_RATE, frozen: bool = False, width: float = 0.4) -> None:
        super().__init__()
        first, last, hidden = (_make_divisible(channels * width) for channels in (16, 160, 1280))
        layers: list[nn.Module] = [_convolution(1, first, 3, 2, activation=nn.Hardswish())]
        inputs = first
        for kernel, wide, narrow, squeeze, hard_swish, stride in BLOCKS:
            expanded, outputs = _make_divisible(wide * width), _make_divisible(narrow * width)
            squeezed = _make_divisible(expanded // 4) if squeeze else 0
            layers.append(InvertedResidual(inputs, kernel, expanded, outputs, squeezed, hard_swish, stride))
            inputs = outputs
        layers.append(_convolution(inputs, 6 * last, 1, activation=nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        head = nn.Linear(6 * last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, TAGS)
        self.classifier = nn.Sequential(*head)
        self.sample_rate, self.frozen = sample_rate, frozen
        if frozen:
            self.eval().requires_grad_(False)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.maps(waves).mean((2, 3))
        return self.classifier(embedding), embedding

    def maps(self, waves: Tensor) -> Tensor:
        """Encode waveforms [N, n] -> last feature map [N, D, 4, L] with L time steps; its mean is the embedding."""
        return self.features(kaldi_log_mel(resample(waves, self.sample_rate, SAMPLE_RATE))[:, None])

    def columns(self, waves: Tensor) -> Tensor:
        """Encode waveforms [N, n] -> [N, D, L]. `classifier` can be applied to the mean over any set of columns."""
        return self.maps(waves).mean(2)

    def train(self, mode: bool = True) -> EfficientAT:
        """Set the mode as usual, except that a frozen network stays in evaluation mode."""
        return super().train(mode and not self.frozen)


def fetch_weights(weights: str | Path | None = None, name: str = "mn04") -> Path:
    """Return the path of the weights file, downloaded if needed; see weights.released_file."""
    _, file, sha256 = RELEASED[name]
    return released_file(f"EfficientAT {name}", f"{URL}/{file}", sha256, weights)


def load_efficientat(
    weights: str | Path | None = None, sample_rate: int = SAMPLE_RATE, frozen: bool = True, name: str = "mn04"
) -> EfficientAT:
    """Load the pretrained network; every entry of the state dict must be used.

    weights: the file or a folder with it; None: see weights.released_file. Raises UserError if the file is missing or
    belongs to another network.
    """
    path = fetch_weights(weights, name)
    network = EfficientAT(sample_rate, frozen, RELEASED[name][0])
    with weight_loading_errors(path, f"EfficientAT {name}"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        for published, ours in _RENAMED:
            state = {key.replace(published, ours): value for key, value in state.items()}
        network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)  # a third faster on a CPU
