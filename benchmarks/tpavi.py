"""TPAVI, the field's first model, built from its public description: what our speed is compared with.

Source: Zhou et al., Audio-Visual Segmentation, ECCV 2022 (arXiv 2207.05042), section 3: a visual pyramid; an ASPP at
each of its four stages, all to 256 channels; at each stage the temporal pixel-wise audio-visual interaction

    z = norm(x + mu(alpha g(x))),   alpha = theta(x) phi(a)^T / N,   N = T h w

of all pixels of all frames x with the sound a of the frames, spread over their pixels; and a decoder that fuses from
coarse to fine, as Panoptic-FPN does, to logits at the size of the frames. The alpha of the finest stage has
(5 56 56)^2 numbers, a gigabyte a clip. Written anew, with random weights, for its cost alone: no masks come of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, AUDIO = 256, 128
RATES = (3, 6, 12, 18)  # of the dilated convolutions of an ASPP


class ASPP(nn.Module):
    """[N,c,h,w] -> [N,256,h,w]: the sum of four dilated convolutions (DeepLab)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, WIDTH, 3, padding=rate, dilation=rate) for rate in RATES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class TPAVI(nn.Module):
    """Stage features [B,256,T,h,w] and sound [B,T,128] -> [B,256,T,h,w]."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.audio = nn.Linear(AUDIO, WIDTH)
        self.g, self.theta, self.phi = (nn.Conv3d(WIDTH, half, 1) for _ in range(3))
        self.mu = nn.Sequential(nn.Conv3d(half, WIDTH, 1), nn.BatchNorm3d(WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, sound: Tensor) -> Tensor:
        spread = self.audio(sound).transpose(1, 2)[..., None, None].expand_as(x)
        value, query = (layer(x).flatten(2).transpose(1, 2) for layer in (self.g, self.theta))  # B N 128
        alpha = query @ self.phi(spread).flatten(2) / query.shape[1]  # B N N
        seen = (alpha @ value).transpose(1, 2).unflatten(2, x.shape[2:])
        fused = x + self.mu(seen)
        return self.norm(fused.movedim(1, -1)).movedim(-1, 1)


class ResidualUnit(nn.Module):
    """Two convolutions, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Fusion(nn.Module):
    """A finer level joins a coarser one; the result is twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.joining, self.joined = ResidualUnit(), ResidualUnit()

    def forward(self, above: Tensor | None, level: Tensor) -> Tensor:
        mixed = level if above is None else above + self.joining(level)
        return F.interpolate(self.joined(mixed), scale_factor=2, mode="bilinear", align_corners=True)


class TPAVISegmenter(nn.Module):
    """frames uint8 [B,T,S,S,3], S a multiple of 32, sound [B,T,128] -> logits [B,T,S,S].

    visual: an encoder with `channels`, frames uint8 [N,H,W,3] -> four levels.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual
        self.aspp = nn.ModuleList(ASPP(channels) for channels in visual.channels)
        self.tpavi = nn.ModuleList(TPAVI() for _ in visual.channels)
        self.fusion = nn.ModuleList(Fusion() for _ in visual.channels)
        self.head = nn.Sequential(
            nn.Conv2d(WIDTH, 128, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(128, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
        )

    def forward(self, frames: Tensor, sound: Tensor) -> Tensor:
        clips = frames.shape[:2]
        levels = [aspp(level) for aspp, level in zip(self.aspp, self.visual(frames.flatten(0, 1)), strict=True)]
        heard = []
        for tpavi, level in zip(self.tpavi, levels, strict=True):
            stage = level.unflatten(0, clips).transpose(1, 2)
            heard.append(tpavi(stage, sound).transpose(1, 2).flatten(0, 1))
        x = None
        for fusion, level in zip(reversed(self.fusion), reversed(heard), strict=True):
            x = fusion(x, level)
        return self.head(x)[:, 0].unflatten(0, clips)


def parameters(model: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def second_branch(model: TPAVISegmenter) -> int:
    """Parameters of the second copy of stages 3 and 4 that the public code's ResNet-50 holds and never uses.

    Its 91 million count them; they cost memory, not time, and are not built here.
    """
    stages = model.visual.network.encoder.stages
    return parameters(stages[2]) + parameters(stages[3])
