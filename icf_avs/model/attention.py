"""The attention blocks shared by implicit text and decoder (pre-norm, scaled dot product, as in any Transformer)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """queries [N,q,D], keys [N,k,D], bias broadcastable to [N,heads,q,k]: boolean (True = may attend) or additive."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
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

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        queries = queries + self.attention(self.query_norm(queries), self.key_norm(keys), bias)
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
