"""Attention blocks shared by implicit text and decoders: pre-norm Transformer layers with scaled dot products."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import TokenLinear


class Attention(nn.Module):
    """queries [N,q,D], keys [N,k,D], bias broadcastable to [N,heads,q,k]: boolean (True = may attend) or additive.

    shared [N/R,s,D]: keys prepended to `keys`, the same for n, n + N/R, n + 2 N/R ..., and projected only once.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (TokenLinear(dim, dim) for _ in range(4))

    def forward(
        self, queries: Tensor, keys: Tensor, bias: Tensor | None = None, shared: Tensor | None = None
    ) -> Tensor:
        projected = [self.query(queries), self.key(keys), self.value(keys)]
        if shared is not None:
            repeats = keys.shape[0] // shared.shape[0]  # not len(), which export would make a constant
            for index, layer in ((1, self.key), (2, self.value)):
                projected[index] = torch.cat([layer(shared).repeat(repeats, 1, 1), projected[index]], dim=1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, dim: int) -> None:
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


class CrossBlock(nn.Module):
    """Cross-attention and a feed-forward layer, both residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim)

    def forward(
        self, queries: Tensor, keys: Tensor, bias: Tensor | None = None, shared: Tensor | None = None
    ) -> Tensor:
        shared = None if shared is None else self.key_norm(shared)
        queries = queries + self.attention(self.query_norm(queries), self.key_norm(keys), bias, shared)
        return queries + self.feed_forward(queries)


class SelfBlock(nn.Module):
    """Self-attention, residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm(tokens)
        return tokens + self.attention(normed, normed)
