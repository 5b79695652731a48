"""Text in the decoder, the reading "text" of MIT (sec. 4.2 of the paper, two steps): queries attend to implicit texts.

queries [N,Q,D], the texts l^v and l^a of their frame (eq. 1-4) -> queries. Two texts, and not the fused one: a single
token would move all queries alike. At test the texts of the banks are constants; no text encoder is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.icf.implicit_text import ImplicitText
from icf_avs.icf.settings import MIT
from icf_avs.networks.attention import CrossBlock
from icf_avs.types import Texts


class TextAttention(nn.Module):
    """visual: channels of the map that is read; dim: of queries and audio tokens. Training needs text encoders, by
    `implicit_text.attach`.
    """

    def __init__(self, settings: MIT, visual: int, dim: int, heads: int) -> None:
        super().__init__()
        self.implicit_text = ImplicitText(settings, visual, dim, None)
        self.enter = nn.Linear(settings.dim, dim)
        self.block = CrossBlock(dim, heads)

    def forward(self, queries: Tensor, visual: Tensor, audio: Tensor, valid: Tensor) -> tuple[Tensor, Texts]:
        """visual [B,T,C,h,w], audio [B,T,D], valid [B,T] bool; N = B T."""
        texts = self.implicit_text(visual, audio, valid)
        tokens = self.enter(torch.stack([texts.visual, texts.audio], 2)).flatten(0, 1)  # N 2 D
        return self.block(queries, tokens), texts
