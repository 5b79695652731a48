"""Audio encoder: a small convolutional network over the log-mel spectrogram, trained from scratch.

One window of 0.975 s gives L = 6 tokens over time. Learned attention pools them to the audio token of the frame.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from icf_avs.media.vggish_frontend import BANDS, WINDOW_FRAMES, log_mel

WIDTHS = (32, 64, 96, 128)
LEVEL_MEAN, LEVEL_SCALE = -2.5, 2.0  # of log-mel values of typical recordings, to normalise the input


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = _block(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def as_log_mel(sound: Tensor) -> Tensor:
    """Convert waveforms [..., 15600] to log-mel [..., 96, 64]; log-mel input, released by some data sets, is unchanged.

    The two cannot be confused: a waveform of 64 samples is too short for a single spectrogram frame.
    """
    return sound if sound.shape[-2:] == (WINDOW_FRAMES, BANDS) else log_mel(sound)


class LogMelEncoder(nn.Module):
    """Waveforms [N, 15600] or log-mel [N, 96, 64] -> (token [N, D], tokens [N, 6, D])."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_block(1, WIDTHS[0], 2)]
        for inputs, width in pairwise(WIDTHS):
            layers += [_block(inputs, width, 2), Residual(width)]
        self.features = nn.Sequential(*layers)
        self.length = WINDOW_FRAMES // 2 ** len(WIDTHS)
        self.project = nn.Linear(WIDTHS[-1] * (BANDS // 2 ** len(WIDTHS)), dim)
        self.attend = nn.Linear(dim, 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        mel = (as_log_mel(sound) - LEVEL_MEAN) / LEVEL_SCALE  # N 96 64
        maps = self.features(mel[:, None])  # N C 6 4
        tokens = self.project(maps.permute(0, 2, 1, 3).flatten(2))  # N 6 D
        weights = self.attend(tokens.tanh()).softmax(dim=1)  # N 6 1
        return self.norm((weights * tokens).sum(1)), self.norm(tokens)
