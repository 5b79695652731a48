"""Spatial prior of the guided network: a coarse map of where the image matches the text, computed before decoding.

    prior(p) = max_n cos(k(p), q(T_n)) s + b + g agreement(z, p)                      k, q maps, s, b, g: learned

The first term compares a position with the implicit text of the frame as a whole, the last compares sound and position
word by word (vocabulary.py). Not from the paper, which says only that implicit text gives prior guidance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import PointConv
from icf_avs.networks.guided_parts.vocabulary import Vocabulary


class PriorOutput(NamedTuple):
    """R sounds over N images. prior [R,N,h,w] logits; pixel_reading [N,M,h,w]: logits of each position's reading."""

    prior: Tensor
    pixel_reading: Tensor


class TextImageSimilarity(NamedTuple):
    """Comparison of R sounds with N images. similarity of positions and text, agreement of positions and sound
    [R,N,h,w]; sound_reading [R,N,M] and pixel_reading [N,M,h,w]: readings as logits.
    """

    similarity: Tensor
    agreement: Tensor
    sound_reading: Tensor
    pixel_reading: Tensor


class LocalizationPrior(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key, self.query = PointConv(dim, dim), nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(-3.0))
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, tokens: Tensor, sound: Tensor, text: Tensor, vocabulary: Vocabulary) -> PriorOutput:
        """R sounds over the same N images: tokens [N,D,h,w], sound z [R,N,D], text of the frame [R,N,n,D]."""
        comparison = self.compare(tokens, sound, text, vocabulary)
        return PriorOutput(
            comparison.similarity + self.offset + self.share * comparison.agreement, comparison.pixel_reading
        )

    def compare(self, tokens: Tensor, sound: Tensor, text: Tensor, vocabulary: Vocabulary) -> TextImageSimilarity:
        """Return the terms that `forward` adds up."""
        keys, words = self.key(tokens), vocabulary.words()
        cosine = torch.einsum("rnqd,ndhw->rnqhw", F.normalize(self.query(text), dim=-1), F.normalize(keys, dim=1))
        pixels, sounds = vocabulary.similarity(keys.permute(0, 2, 3, 1), words), vocabulary.similarity(sound, words)
        agreement = vocabulary.agreement(sounds, pixels)
        return TextImageSimilarity(cosine.amax(2) * self.scale, agreement, sounds, pixels.permute(0, 3, 1, 2))
