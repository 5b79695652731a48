"""MIT's prior guidance: a coarse map of where the picture shows what the text says, before any mask is decoded.

    prior(p) = max_n cos(k(p), q(T_n)) s + b + g agreement(z, p)            k, q learned maps; s, b, g scalars

The first part compares a position with the whole of a frame's implicit text, the second sound and position word by word
(vocabulary.py). Ours; the paper says that implicit text gives prior guidance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.model.vocabulary import Vocabulary


class Prior(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(dim, dim, 1)
        self.query = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(-3.0))
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, tokens: Tensor, sound: Tensor, text: Tensor, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """R sounds over the same N pictures: tokens [N,D,h,w], sound z [R,N,D], text of the frame [R,N,n,D].

        Returns the prior's logits [R,N,h,w] and the reading of every position, logits [N,M,h,w].
        """
        keys = self.key(tokens)
        likeness = torch.einsum("rnqd,ndhw->rnqhw", F.normalize(self.query(text), dim=-1), F.normalize(keys, dim=1))
        seen = vocabulary.similarity(keys.permute(0, 2, 3, 1))
        agreement = vocabulary.agreement(vocabulary.similarity(sound), seen)
        return likeness.amax(2) * self.scale + self.offset + self.share * agreement, seen.permute(0, 3, 1, 2)
