"""SC, semantic counterfactual of the guided network: counterfactual sounds, of which every second one is made of words.

Proposals are other clips' semantics (extensions/counterfactual_sounds.py), or words of the vocabulary turned into a
semantic by a generator that learns that from the factual pairs (reading of z, z). Not from the paper, which gives that
representations are orthogonal, latent, diverse, and need no edits of text.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.distributed import average
from icf_avs.extensions.counterfactual_sounds import CounterfactualSounds, Proposal, SourceRemoval, expand_synonyms
from icf_avs.networks.guided_parts.vocabulary import Vocabulary


class Rivals(NamedTuple):
    """sounds [K,B,T,D]; kinds [K,B,C] bool, what a rival sounds like where `known` [K,B]; fit: the generator's loss, or
    None without one; rest: the factual sound less one of its kinds.
    """

    sounds: Tensor
    kinds: Tensor
    known: Tensor
    fit: Tensor | None
    rest: SourceRemoval


class SemanticCounterfactual(CounterfactualSounds):
    """Draws K rivals for every clip: donors, and with a vocabulary every second one generated from words."""

    def __init__(self, dim: int, classes: int, count: int, words: bool, momentum: float = 0.05) -> None:
        super().__init__(dim, classes, count, momentum)
        words = words and count > 1  # a single rival is a donor
        self.generator = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) if words else None

    def forward(
        self,
        sound: Tensor,
        sounding: Tensor,
        valid: Tensor,
        vocabulary: Vocabulary | None = None,
        akin: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Rivals:
        """As CounterfactualSounds; akin [C,C] bool are its synonyms, of an open vocabulary: a rival is of all kinds
        that it may mean, and only words are taken for rivals that training has heard.

        The vocabulary must be given when the part was built with words.
        """
        words = None if self.generator is None else partial(self._words, vocabulary=vocabulary, akin=akin)
        drawn, rest = super().forward(sound, sounding, valid, known, akin, words)
        fit = None
        if self.generator is not None:
            words = vocabulary.words().detach()
            reading = vocabulary.similarity(sound.detach(), words).softmax(-1).detach()
            error = self.generator(reading @ words) - sound.detach()
            fit = average(error.square().mean(-1), valid)
        return Rivals(drawn.sounds, drawn.classes, drawn.known, fit, rest)

    def _words(
        self, sound: Tensor, kinds: Tensor, known: Tensor, vocabulary: Vocabulary, akin: Tensor | None
    ) -> Proposal:
        """A semantic generated from one or two names that do not sound in the clip; a random direction in frames of
        which it is unknown what sounds.
        """
        kinds = expand_synonyms(kinds, akin)
        if akin is not None:
            kinds = kinds | ~self.met
        chance = torch.rand(kinds.shape, device=sound.device).masked_fill(kinds, -1)
        first, second = chance.topk(2, dim=1).indices.unbind(1) if kinds.shape[1] > 1 else (chance.argmax(1),) * 2
        share = (torch.rand(len(kinds), 1, device=sound.device) - 0.5).clamp(min=0)  # mostly one word
        share = share.masked_fill(kinds.gather(1, second[:, None]), 0)  # only one word is left that does not sound
        words = vocabulary.words()
        mixed = words[first] * (1 - share) + words[second] * share
        picked = F.one_hot(first, kinds.shape[1]).bool() | (F.one_hot(second, kinds.shape[1]).bool() & (share > 0))
        proposal = torch.where(known[..., None], self.generator(mixed)[:, None], self.random(sound))
        told = known.any(1)
        return Proposal(proposal, expand_synonyms(picked, akin) & told[:, None], told & ~(picked & kinds).any(1), known)
