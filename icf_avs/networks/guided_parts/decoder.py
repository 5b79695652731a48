"""The pixel decoder, a light FPN with GroupNorm over the frozen pyramid, and the mask decoder.

The pixel decoder reads no audio, so it runs once for the factual sound and all its counterfactuals. In the mask
decoder, queries from sound and implicit text attend to the image, each gives a map, and a small head sharpens them:

    q = [z_t, T_frame]; q <- L layers of cross-attention to the 1/16 tokens (biased by the prior) and self-attention
    S_i = <e(q_i), P>                                 similarity maps of the pixel embedding P at 1/4
    logits = sum_i S_i + sharpen([P', S, up(prior)])

Factual and counterfactual sounds of an image are decoded together: all their queries attend to one set of keys.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import PointConv, separable_conv
from icf_avs.networks.attention import CrossBlock, SelfBlock
from icf_avs.networks.pooling import grid_means


class PixelFeatures(NamedTuple):
    """tokens [N,D,h/16,w/16] for attention and prior; fine [N,P,h/4,w/4] for masks; pooled [N,49,D] for the text."""

    tokens: Tensor
    fine: Tensor
    pooled: Tensor


class PixelDecoder(nn.Module):
    """pyramid of [N,c_l,h_l,w_l] at strides 4, 8, 16, 32 -> PixelFeatures."""

    def __init__(self, channels: tuple[int, int, int, int], dim: int, pixel_dim: int) -> None:
        super().__init__()
        widths = (pixel_dim, pixel_dim, dim, dim)
        # No norm on these paths: GroupNorm's backward pass crashes (torch 2.13, CPU) on channels-last input that
        # needs no gradient, such as frozen features.
        self.lateral = nn.ModuleList(PointConv(c, w) for c, w in zip(channels, widths, strict=True))
        mix = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.mix16 = nn.Sequential(mix, nn.GroupNorm(8, dim), nn.ReLU(inplace=True))
        self.down16 = PointConv(dim, pixel_dim)
        self.mix8 = separable_conv(pixel_dim)
        # No GroupNorm at the finest level: there it would cost as much as all other layers.
        self.mix4 = separable_conv(pixel_dim, norm=False)

    def forward(self, pyramid: list[Tensor]) -> PixelFeatures:
        p4, p8, p16, p32 = (layer(level) for layer, level in zip(self.lateral, pyramid, strict=True))
        tokens = self.mix16(_upsample_add(p16, p32))
        p8 = _upsample_add(p8, self.down16(tokens))
        p8 = p8 + self.mix8(p8)
        p4 = _upsample_add(p4, p8)
        fine = p4 + self.mix4(p4)
        return PixelFeatures(tokens, fine, grid_means(tokens, 7).flatten(2).transpose(1, 2))


def _upsample_add(finer: Tensor, x: Tensor) -> Tensor:
    """Upsample x to a finer level and add the two."""
    return F.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=False).add_(finer)


class MaskDecoderOutput(NamedTuple):
    """logits [R,N,h/4,w/4]; query [R,N,D], the sound's query after the last layer."""

    logits: Tensor
    query: Tensor


class MaskDecoder(nn.Module):
    """queries: number for each frame (its sound and its implicit text); prior: False without MIT and CDCL."""

    def __init__(self, dim: int, pixel_dim: int, heads: int, layers: int, queries: int, prior: bool) -> None:
        super().__init__()
        self.role = nn.Parameter(torch.normal(0.0, 0.1, (queries, dim)))
        self.cross = nn.ModuleList(CrossBlock(dim, heads) for _ in range(layers))
        self.self_attention = nn.ModuleList(SelfBlock(dim, heads) for _ in range(layers))
        self.position = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)  # position encoding for any image size
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, pixel_dim))
        # The head has 16 input channels, maps included: CPUs are fast at this width in channels-last layout.
        self.context = PointConv(pixel_dim, 16 - queries - (1 if prior else 0))
        self.sharpen = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(inplace=True), PointConv(16, 1))
        self.scale = pixel_dim**-0.5

    def forward(
        self, pixels: PixelFeatures, sound: Tensor, text: Tensor | None, prior: Tensor | None
    ) -> MaskDecoderOutput:
        """sound [R,N,D], text [R,N,n,D] and prior [R,N,h/16,w/16] or None, for R sounds of the same N images."""
        repeats, count, _ = sound.shape
        queries = sound[:, :, None] if text is None else torch.cat([sound[:, :, None], text], dim=2)
        queries = queries + self.role  # R N q D
        num_queries = queries.shape[2]
        bias = None
        if prior is not None:
            bias = F.logsigmoid(prior).clamp(min=-4).flatten(2)  # R N k; bounded, so that it excludes no position
            bias = bias.transpose(0, 1).repeat_interleave(num_queries, 1)[:, None]  # N 1 (R q) k
        keys = (pixels.tokens + self.position(pixels.tokens)).flatten(2).transpose(1, 2)  # N k D
        for cross, mix in zip(self.cross, self.self_attention, strict=True):
            flat_queries = queries.transpose(0, 1).flatten(1, 2)  # N (R q) D
            attended = cross(flat_queries, keys, bias).unflatten(1, (repeats, num_queries)).transpose(0, 1)
            queries = mix(attended.flatten(0, 1)).unflatten(0, (repeats, count))
        maps = torch.einsum("rnqc,nchw->rnqhw", self.embed(queries), pixels.fine) * self.scale
        sound_maps = maps
        if prior is not None:
            prior = F.interpolate(prior, maps.shape[-2:], mode="bilinear", align_corners=False)
            sound_maps = torch.cat([maps, prior[:, :, None]], dim=2)
        logits = maps.sum(2) + self._sharpened(self.context(pixels.fine), sound_maps)
        return MaskDecoderOutput(logits, queries[:, :, 0])

    def _sharpened(self, context: Tensor, sound_maps: Tensor) -> Tensor:
        """Apply the head to context [N,c,h,w], shared by R sounds, and the sounds' maps [R,N,m,h,w] -> [R,N,h,w]."""
        first, last = cast(nn.Conv2d, self.sharpen[0]), cast(nn.Conv2d, self.sharpen[2])
        if len(sound_maps) == 1:
            stacked = torch.cat([context, sound_maps[0]], dim=1).contiguous(memory_format=torch.channels_last)
            return self.sharpen(stacked)[:, 0][None]
        # The first layer is linear: its response to the context is the same for all sounds.
        context_weight, sound_weight = first.weight.split((context.shape[1], sound_maps.shape[2]), dim=1)
        shared = F.conv2d(context, context_weight, first.bias, padding=1)
        maps = sound_maps.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        hidden = F.conv2d(maps, sound_weight, padding=1).unflatten(0, sound_maps.shape[:2])
        # The largest tensor of a step. Not add_(): in place on a view, the backward pass would copy it four times.
        hidden = (hidden + shared).relu_()
        return torch.einsum("rnchw,c->rnhw", hidden, last.weight[0, :, 0, 0]) + cast(Tensor, last.bias)


class SemanticHead(nn.Module):
    """Class masks (AVSS): one mask embedding per class, from the frame's query and the class embedding."""

    def __init__(self, classes: int, dim: int, pixel_dim: int) -> None:
        super().__init__()
        self.class_embeddings = nn.Parameter(torch.normal(0.0, 0.1, (classes + 1, dim)))  # background first
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, pixel_dim))
        self.scale = pixel_dim**-0.5

    def forward(self, query: Tensor, fine: Tensor) -> Tensor:
        """query [N,D], fine [N,P,h,w] -> class logits [N, C+1, h, w]."""
        embedded = self.embed(query[:, None] + self.class_embeddings)
        return torch.einsum("ncp,nphw->nchw", embedded, fine) * self.scale
