"""Pixel decoders: from a visual pyramid to mask features and maps of one width D. They do not use the audio.

pyramid: [N,C_l,h_l,w_l] at strides 4, 8, 16, 32, fine to coarse
-> PixelMaps: mask [N,D,h_4,w_4]; maps [N,D,h_l,w_l] at strides 32, 16, 8, coarse to fine

LightPixelDecoder: a feature pyramid network (Lin et al., CVPR 2017) of separable convolutions, fast on a CPU.
DeformablePixelDecoder: that of Mask2Former (Cheng et al., CVPR 2022), from the library transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import PointConv, separable_conv
from icf_avs.networks.deformable import HEADS, LEVELS, SinePositionEmbedding, init_deformable, load_mask2former


class PixelMaps(NamedTuple):
    """mask [N,D,h/4,w/4]; maps [N,D,...] at strides 32, 16, 8."""

    mask: Tensor
    maps: tuple[Tensor, ...]


def resize_like(x: Tensor, finer: Tensor) -> Tensor:
    """Resize x to the size of `finer`, bilinear."""
    return F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False)


class LightPixelDecoder(nn.Module):
    """dim: a multiple of 8. No norm at stride 4, where it would cost as much as all other layers."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.lateral = nn.ModuleList(PointConv(width, dim) for width in channels)
        self.refine = nn.ModuleList(separable_conv(dim, norm=level > 0) for level in range(len(channels)))

    def forward(self, pyramid: Sequence[Tensor]) -> PixelMaps:
        outputs: list[Tensor] = []
        for lateral, refine, level in zip(self.lateral[::-1], self.refine[::-1], pyramid[::-1], strict=True):
            x = lateral(level)
            if outputs:
                x = x + resize_like(outputs[-1], x)
            outputs.append(x + refine(x))
        return PixelMaps(outputs[-1], tuple(outputs[:-1]))


class DeformablePixelDecoder(nn.Module):
    """dim: a multiple of 32. Raises UserError if transformers is not installed."""

    def __init__(self, channels: Sequence[int], dim: int = 256, layers: int = 6) -> None:
        super().__init__()
        mask2former = load_mask2former("the deformable pixel decoder")
        config = mask2former.Mask2FormerConfig(
            feature_size=dim, mask_feature_size=dim, encoder_layers=layers, encoder_feedforward_dim=4 * dim,
            num_attention_heads=HEADS,
        )  # fmt: skip
        self.dim = dim
        self.decoder = mask2former.Mask2FormerPixelDecoder(config, list(channels))
        self.decoder.position_embedding = SinePositionEmbedding(dim, normalised=True)
        init_deformable(self.decoder)
        self.decoder.level_embed = nn.Parameter(torch.randn(LEVELS, dim))  # transformers leaves it uninitialised

    def forward(self, pyramid: Sequence[Tensor]) -> PixelMaps:
        decoded = self.decoder(list(pyramid))
        return PixelMaps(decoded.mask_features, tuple(decoded.multi_scale_features))
