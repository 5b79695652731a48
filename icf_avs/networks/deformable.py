"""Multi-scale deformable attention (Zhu et al., ICLR 2021) from the library transformers, in plain PyTorch.

The layers are those of transformers' Mask2Former. Outside the full model they are not initialised, so this module does
it: sampling offsets start as a ring of points around each position, with uniform attention over them.

DeformableEncoder: maps [N,D,h_l,w_l] of L levels -> the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.weights import require_transformers

LEVELS, HEADS = 3, 8  # three levels are hard-coded in transformers' layers


def load_mask2former(what: str) -> ModuleType:
    """Import transformers' Mask2Former module. Raises UserError if transformers is not installed."""
    require_transformers(what)
    with torch.device("cpu"):  # under the meta device, torch 2.6 fails to import some of its parts
        from transformers.models.mask2former import modeling_mask2former
    return modeling_mask2former


class SinePositionEmbedding(nn.Module):
    """Sine embedding of rows, then of columns (Carion et al., ECCV 2020): shape (N,*,h,w) -> [1,D,h,w].

    normalised: positions run from 0 to 2 pi in every image, else they count pixels. It replaces transformers' module,
    which caches the last embedding of each device for ever.
    """

    def __init__(self, dim: int, normalised: bool) -> None:
        super().__init__()
        self.features, self.normalised = dim // 2, normalised

    def forward(self, shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
        height, width = shape[-2:]
        periods = 10_000 ** (torch.arange(0, self.features, 2, device=device) / self.features)
        rows = self._along(height, periods)[:, :, None].expand(-1, -1, width)
        columns = self._along(width, periods)[:, None].expand(-1, height, -1)
        return torch.cat([rows, columns])[None].to(dtype)

    def _along(self, length: int, periods: Tensor) -> Tensor:
        positions = torch.arange(1, length + 1, device=periods.device, dtype=periods.dtype)
        if self.normalised:
            positions = positions * (2 * math.pi / (length + 1e-6))
        angles = positions / periods[:, None]
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)


def init_matrices(parameters: Iterable[nn.Parameter]) -> None:
    """Initialise parameters of two or more dimensions with Xavier uniform weights."""
    for parameter in parameters:
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def init_deformable(module: nn.Module) -> None:
    """Initialise matrices with Xavier, biases of convolutions with zero, then the deformable attention layers."""
    init_matrices(module.parameters())
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if hasattr(part, "sampling_offsets"):
            _init_attention(part)


def _init_attention(attention: Any) -> None:
    """Let head i sample in direction i of a ring, with points at distances 1, 2, ... along the larger axis."""
    for layer in (attention.sampling_offsets, attention.attention_weights):
        nn.init.zeros_(layer.weight)
    for layer in (attention.attention_weights, attention.value_proj, attention.output_proj):
        nn.init.zeros_(layer.bias)
    bias = attention.sampling_offsets.bias
    angles = torch.arange(attention.n_heads, device=bias.device) * (2 * math.pi / attention.n_heads)
    ring = torch.stack([angles.cos(), angles.sin()], dim=-1)
    ring = ring / ring.abs().amax(-1, keepdim=True)
    distances = torch.arange(1, attention.n_points + 1, device=bias.device)
    offsets = ring[:, None, None] * distances[:, None]  # heads 1 points 2
    with torch.no_grad():
        bias.copy_(offsets.expand(-1, attention.n_levels, -1, -1).flatten())


class DeformableEncoder(nn.Module):
    """Post-norm layers of self-attention over three levels and a feed-forward network with GELU, as in AVSegFormer."""

    def __init__(self, dim: int, layers: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        mask2former = load_mask2former("the deformable encoder")
        config = mask2former.Mask2FormerConfig(
            feature_size=dim, encoder_layers=layers, encoder_feedforward_dim=feed_forward, num_attention_heads=HEADS,
            dropout=dropout,
        )  # fmt: skip
        self.encoder = mask2former.Mask2FormerPixelDecoderEncoderOnly(config)
        for layer in self.encoder.layers:
            layer.activation_fn = F.gelu
        init_deformable(self.encoder)
        self.position = SinePositionEmbedding(dim, normalised=False)
        self.level = nn.Parameter(torch.randn(LEVELS, dim))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        shapes = [(x.shape[-2], x.shape[-1]) for x in maps]
        positions = [
            (self.position(x.shape, x.device, x.dtype) + level[:, None, None]).flatten(2).transpose(1, 2)
            for x, level in zip(maps, self.level, strict=True)
        ]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        tokens = self.encoder(
            inputs_embeds=tokens,
            position_embeddings=torch.cat(positions, dim=1),
            spatial_shapes_list=shapes,
            valid_ratios=tokens.new_ones(tokens.shape[0], LEVELS, 2),
        ).last_hidden_state
        parts = tokens.split([height * width for height, width in shapes], dim=1)
        return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
