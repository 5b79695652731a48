"""TPAVI, the network of AVSBench (Zhou et al., "Audio-Visual Segmentation", ECCV 2022; arXiv 2207.05042).

Written from the public description and layer list of OpenNLPLab/AVSBench (Apache-2.0); for any number of frames T.

pyramid [B,T,C_l,h_l,w_l] -> four dilated convolutions, summed: F_l [B,T,D,h_l,w_l], D = 256
each level: sound a_l = Linear(a) [B,T,D]; each position p of the clip reads all positions (s, q), weighted by audio:
    y_p = 1/N sum over (s,q) of <theta(F_p), phi(a_s)> g(F_sq);  Z = LayerNorm(F + BatchNorm(W y))
top-down: x <- upsampled(refine(x + skip(Z_l))), coarse to fine -> logits [B,T,4 h_4,4 w_4], the size of the frame
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.batch_norm import FrameBatchNorm
from icf_avs.networks.base import Network
from icf_avs.networks.mask_head import UpsamplingHead, split_class_logits
from icf_avs.types import AudioFeatures, FeatureSpec, NetworkFeatures, NetworkOutput, VisualFeatures

DILATIONS = (3, 6, 12, 18)


class DilatedConvolutions(nn.ModuleList):
    """[N,C,h,w] -> [N,D,h,w]: the sum of 3 x 3 convolutions of several dilations."""

    def __init__(self, channels: int, dim: int) -> None:
        layers = [nn.Conv2d(channels, dim, 3, padding=rate, dilation=rate) for rate in DILATIONS]
        super().__init__(layers)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return sum(layer(x) for layer in self)


class PixelWiseInteraction(nn.Module):
    """maps [B,T,D,h,w], audio [B,T,A] -> maps conditioned on the sound of the clip, audio tokens [B,T,D].

    The weights are plain products without softmax, so the sums over positions and frames are computed first: the matrix
    of all pairs of positions, [Thw,Thw], is never built.
    """

    def __init__(self, dim: int, audio_dim: int, audio_bias: bool) -> None:
        super().__init__()
        inner = dim // 2
        self.align = nn.Linear(audio_dim, dim, bias=audio_bias)
        self.theta, self.g = nn.Conv2d(dim, inner, 1), nn.Conv2d(dim, inner, 1)
        self.phi = nn.Linear(dim, inner)
        self.out, self.batch_norm = nn.Conv2d(inner, dim, 1), FrameBatchNorm(dim)
        nn.init.zeros_(self.batch_norm.weight)  # at first the audio has no effect on the maps
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Tensor, audio: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        lead, padding = audio.shape[:2], ~valid[..., None]
        tokens = self.align(audio)
        frames = maps.flatten(0, 1)
        theta = self.theta(frames).unflatten(0, lead)
        values = self.g(frames).mean((-2, -1)).unflatten(0, lead).masked_fill(padding, 0)  # B T D/2
        keys = self.phi(tokens).masked_fill(padding, 0)
        count = valid.sum(1).clamp(min=1)[:, None, None]
        clip = torch.einsum("btk,btv->bkv", keys, values) / count
        interaction = torch.einsum("btkhw,bkv->btvhw", theta, clip)
        conditioned = self.batch_norm(self.out(interaction.flatten(0, 1)).unflatten(0, lead), valid)
        return self.norm((maps + conditioned).movedim(2, -1)).movedim(-1, 2), tokens


class ResidualUnit(nn.Module):
    """[N,D,h,w] -> [N,D,h,w]. The skip adds the input after ReLU, as a result of the public code's in-place ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(dim, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return x + self.second(self.first(x).relu())


class TopDownFusion(nn.Module):
    """One top-down step: add a level [N,D,h,w] to x if there is one, refine, and upsample to `size`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.skip, self.refine = ResidualUnit(dim), ResidualUnit(dim)

    def forward(self, x: Tensor, size: Sequence[int], level: Tensor | None = None) -> Tensor:
        if level is not None:
            x = x + self.skip(level)
        return F.interpolate(self.refine(x), tuple(size), mode="bilinear", align_corners=True)


class TPAVI(Network):
    """audio_dim: width of the audio encoder's token, 128 for VGGish. classes: number of class maps with background (71
    for AVSS), None for one mask.

    Features are the maps F_l before interaction with audio, and the mean of the levels' audio tokens.
    """

    def __init__(
        self, visual: nn.Module, audio: nn.Module, audio_dim: int = 128, *, train_visual: bool = False,
        classes: int | None = None, dim: int = 256,
    ) -> None:  # fmt: skip
        super().__init__(visual, audio, train_visual)
        self.dim, self.classes = dim, classes
        self.project = nn.ModuleList(DilatedConvolutions(width, dim) for width in self.visual.channels)
        bias = classes is None  # the public network for classes leaves it out
        self.interact = nn.ModuleList(PixelWiseInteraction(dim, audio_dim, bias) for _ in self.visual.channels)
        self.fuse = nn.ModuleList(TopDownFusion(dim) for _ in self.visual.channels)
        # The public network builds this unit but never uses it. It is kept so that both have the same weights.
        self.fuse[-1].skip.requires_grad_(False)
        self.head = UpsamplingHead(dim, classes or 1, scale=2, bias=True)

    @property
    def feature_spec(self) -> FeatureSpec:
        return self._spec((self.dim,) * len(self.project), self.dim)

    def encode_visual(self, visual: VisualFeatures) -> VisualFeatures:
        """The maps F_l."""
        levels = zip(self.project, visual.pyramid, strict=True)
        return VisualFeatures([project(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for project, x in levels])

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        lead, maps = audio.token.shape[:2], visual.pyramid
        conditioned, tokens = zip(
            *(interact(x, audio.token, valid) for interact, x in zip(self.interact, maps, strict=True)), strict=True
        )
        levels = [x.flatten(0, 1) for x in conditioned]  # N D h w, fine to coarse
        height, width = levels[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(x.shape[-2:] for x in levels[:-1])]
        x = self.fuse[-1](levels[-1], sizes[-1])
        for fuse, size, level in zip(self.fuse[-2::-1], sizes[-2::-1], levels[-2::-1], strict=True):
            x = fuse(x, size, level)
        logits, classes = split_class_logits(self.head(x).unflatten(0, lead), self.classes)
        return NetworkOutput(logits, NetworkFeatures(tuple(maps), torch.stack(tokens).mean(0)), classes)
