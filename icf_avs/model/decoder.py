"""The mask decoder: queries from sound and implicit text look at the picture, each draws a map, a small head sharpens.

    q = [z_t, T_frame]; q <- L layers of cross-attention to the 1/16 tokens (biased by the prior) and self-attention
    S_i = <e(q_i), P>                                 similarity maps of the pixel embedding P at 1/4
    prior = max_n cos(k(p), T_n) / tau + b            MIT's coarse map, without MIT absent
    logits = sum_i S_i + sharpen([P', S, up(prior)])

Everything here runs once per sound (factual or counterfactual); `pixels.py` holds what does not depend on sound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.model.attention import CrossBlock, SelfBlock
from icf_avs.model.pixels import Pixels


class Decoded(NamedTuple):
    """logits [N,h/4,w/4]; prior [N,h/16,w/16] or None; query [N,D], the sound's query after it has looked."""

    logits: Tensor
    prior: Tensor | None
    query: Tensor


class Prior(nn.Module):
    """MIT's prior guidance: agreement of the frame's implicit text with every position of the picture."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(dim, dim, 1)
        self.query = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(-3.0))

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """tokens [N,D,h,w], text [N,n,D] -> logits [N,h,w]."""
        keys, queries = F.normalize(self.key(tokens), dim=1), F.normalize(self.query(text), dim=-1)
        return torch.einsum("nqd,ndhw->nqhw", queries, keys).amax(1) * self.scale + self.offset


class MaskDecoder(nn.Module):
    """queries: how many a frame has (its sound, and the tokens of its implicit text); prior: absent without MIT."""

    def __init__(self, dim: int, pixel_dim: int, heads: int, layers: int, queries: int, prior: bool) -> None:
        super().__init__()
        self.prior = Prior(dim) if prior else None
        self.role = nn.Parameter(torch.randn(queries, dim) * 0.1)
        self.cross = nn.ModuleList(CrossBlock(dim, heads) for _ in range(layers))
        self.self_attention = nn.ModuleList(SelfBlock(dim, heads) for _ in range(layers))
        self.position = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)  # where things are, for any size of picture
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, pixel_dim))
        # The head sees 16 channels, maps included: with channels last, CPUs are fast at just such widths.
        self.context = nn.Conv2d(pixel_dim, 16 - queries - (1 if prior else 0), 1)
        self.sharpen = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 1, 1))
        self.scale = pixel_dim**-0.5

    def forward(self, pixels: Pixels, sound: Tensor, text: Tensor | None) -> Decoded:
        """sound [R,N,D], text [R,N,n,D] or None, for R sounds of the same N pictures -> Decoded over R*N."""
        repeats, count, _ = sound.shape
        queries = sound[:, :, None] if text is None else torch.cat([sound[:, :, None], text], dim=2)  # R N q D
        number = queries.shape[2]
        queries = (queries + self.role).flatten(0, 1)  # (R N) q D
        tokens = _repeat(pixels.tokens, repeats)
        prior, bias = None, None
        if self.prior is not None and text is not None:
            prior = self.prior(tokens, text.flatten(0, 1))
            bias = F.logsigmoid(prior).clamp(min=-4).flatten(1)[:, None, None]  # a nudge, never a veto
        keys = _repeat((pixels.tokens + self.position(pixels.tokens)).flatten(2).transpose(1, 2), repeats)
        for cross, mix in zip(self.cross, self.self_attention, strict=True):
            queries = mix(cross(queries, keys, bias))
        embedded = self.embed(queries).reshape(repeats, count, number, -1)
        maps = torch.einsum("rnqc,nchw->rnqhw", embedded, pixels.fine).flatten(0, 1) * self.scale
        stack = [_repeat(self.context(pixels.fine), repeats), maps]
        if prior is not None:
            stack.append(F.interpolate(prior[:, None], maps.shape[-2:], mode="bilinear", align_corners=False))
        stacked = torch.cat(stack, dim=1).contiguous(memory_format=torch.channels_last)
        logits = maps.sum(1) + self.sharpen(stacked)[:, 0]
        return Decoded(logits, prior, queries[:, 0])


class SemanticHead(nn.Module):
    """Class masks (AVSS): one mask embedding per class from the frame's query and the class's own vector."""

    def __init__(self, classes: int, dim: int, pixel_dim: int) -> None:
        super().__init__()
        self.kinds = nn.Parameter(torch.randn(classes + 1, dim) * 0.1)  # background first
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, pixel_dim))
        self.scale = pixel_dim**-0.5

    def forward(self, query: Tensor, fine: Tensor) -> Tensor:
        """query [N,D], fine [N,P,h,w] -> class logits [N, C+1, h, w]."""
        embedded = self.embed(query[:, None] + self.kinds)
        return torch.einsum("ncp,nphw->nchw", embedded, fine) * self.scale


def _repeat(x: Tensor, repeats: int) -> Tensor:
    """[N,...] -> [repeats*N,...], the whole batch after itself."""
    return x if repeats == 1 else x.expand(repeats, *x.shape).flatten(0, 1)
