"""MIT's prior with a segmenter at hand: where the picture shows things that a sound's words name, and where others.

    own(w, p) = sum_c fit(w, c) P_c(p)
    yes(r, p) = max_w s_w log(1 + own(w, p) / LEAST)
    no(r, p)  = log(1 + sum_c P_c(p) (1 - max_w min(1, s_w) kin(w, c)) / LEAST)     w, s_w as in word_evidence.py

P_c is the share of the segmenter's thing c at a position (backbones/things.py), none of all where there is no
segmenter; fit and kin say what words have to do with it (backbones/thing_words.py). It knows twenty kinds of things,
people among them, whom a classifier of ImageNet does not name, and of any other word it says where it is not. Ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.backbones.things import THINGS
from icf_avs.model.word_evidence import likeliest

THING_MAPS = 2  # yes, no
_LEAST = 1 / 255


class ThingEvidence(nn.Module):
    """vocabulary: how many names it has; words: how many of a reading are searched for.

    The tables are zeros until `learn_names` or a state dict fills them.
    """

    def __init__(self, vocabulary: int, words: int) -> None:
        super().__init__()
        self.words = min(words, vocabulary)
        self.register_buffer("fit", torch.zeros(vocabulary, THINGS, dtype=torch.float16))
        self.register_buffer("kin", torch.zeros(vocabulary, THINGS, dtype=torch.float16))

    def learn_names(self, fit: Tensor, kin: Tensor) -> None:
        """Fill the tables for the names of the vocabulary, both [C,20] (thing_words.thing_bearing)."""
        self.fit.copy_(fit)
        self.kin.copy_(kin)

    def forward(self, reading: Tensor, shares: Tensor) -> Tensor:
        """reading, probabilities over at least the vocabulary [R,N,M]; shares [N,20,h,w] -> [R,N,2,h,w]."""
        _, word, surely = likeliest(reading[..., : len(self.fit)], self.words)  # R N W
        flat = shares.flatten(2)
        own = torch.einsum("rnwc,ncp->rnwp", self.fit[word].float(), flat).clamp(max=1)
        yes = (surely[..., None] * torch.log1p(own / _LEAST)).amax(2)
        kin = (surely.clamp(max=1)[..., None] * self.kin[word].float()).amax(2)  # R N C
        no = torch.log1p(torch.einsum("rnc,ncp->rnp", 1 - kin, flat) / _LEAST)
        return torch.stack([yes, no], dim=2).unflatten(-1, shares.shape[-2:])
