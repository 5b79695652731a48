"""The pixel decoder: a light FPN with GroupNorm over the frozen pyramid. It reads no audio, so it runs once for
the factual sound and all its counterfactuals.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import PointConv, separable
from icf_avs.networks.pooling import grid_means


class Pixels(NamedTuple):
    """tokens [N,D,h/16,w/16] for attention, prior; fine [N,P,h/4,w/4] for masks; pooled [N,49,D] for implicit text."""

    tokens: Tensor
    fine: Tensor
    pooled: Tensor


class PixelDecoder(nn.Module):
    """pyramid of [N,c_l,h_l,w_l] at strides 4, 8, 16, 32 -> Pixels."""

    def __init__(self, channels: tuple[int, int, int, int], dim: int, pixel_dim: int) -> None:
        super().__init__()
        widths = (pixel_dim, pixel_dim, dim, dim)
        # No norm on these paths: GroupNorm's backward pass crashes (torch 2.13, CPU) on channels-last input that
        # needs no gradient, which frozen features are.
        self.lateral = nn.ModuleList(PointConv(c, w) for c, w in zip(channels, widths, strict=True))
        self.mix16 = nn.Sequential(
            nn.Conv2d(dim, dim, 3, 1, 1, bias=False), nn.GroupNorm(8, dim), nn.ReLU(inplace=True)
        )
        self.down16 = PointConv(dim, pixel_dim)
        self.mix8 = separable(pixel_dim)
        # No GroupNorm at the finest level: there it would cost as much as all the rest.
        self.mix4 = separable(pixel_dim, norm=False)

    def forward(self, pyramid: list[Tensor]) -> Pixels:
        p4, p8, p16, p32 = (layer(level) for layer, level in zip(self.lateral, pyramid, strict=True))
        tokens = self.mix16(_onto(p16, p32))
        p8 = _onto(p8, self.down16(tokens))
        p8 = p8 + self.mix8(p8)
        p4 = _onto(p4, p8)
        fine = p4 + self.mix4(p4)
        return Pixels(tokens, fine, grid_means(tokens, 7).flatten(2).transpose(1, 2))


def _onto(finer: Tensor, x: Tensor) -> Tensor:
    """The sum of a level and the one above it."""
    return F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False).add_(finer)
