"""SC, semantic counterfactual of the guided network: counterfactual sounds, of which every second one is made of words.

Proposals are other clips' semantics (extensions/counterfactual_sounds.py), or words of the vocabulary turned into a
semantic by a generator that learns that from the factual pairs (reading of z, z). Not from the paper, which gives that
representations are orthogonal, latent, diverse, and need no edits of text.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.distributed import masked_mean
from icf_avs.extensions.counterfactual_sounds import (
    CounterfactualSoundSampler,
    Proposal,
    SourceRemoval,
    expand_synonyms,
)
from icf_avs.networks.guided_parts.vocabulary import Vocabulary


class GuidedCounterfactuals(NamedTuple):
    """sounds [K,B,T,D]; classes [K,B,C] bool, what one sounds like where `known` [K,B]; fit: the generator's loss, or
    None without one; removal: the factual sound less one of its classes.
    """

    sounds: Tensor
    classes: Tensor
    known: Tensor
    fit: Tensor | None
    removal: SourceRemoval


class GuidedCounterfactualSampler(CounterfactualSoundSampler):
    """Draws K counterfactual sounds for every clip: donors, and with a vocabulary every second one made of words."""

    def __init__(self, dim: int, classes: int, count: int, words: bool, momentum: float = 0.05) -> None:
        super().__init__(dim, classes, count, momentum)
        words = words and count > 1  # a single one is a donor
        self.generator = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) if words else None

    def forward(  # type: ignore[override]
        self, sound: Tensor, sounding: Tensor, valid: Tensor, vocabulary: Vocabulary | None = None,
        synonyms: Tensor | None = None, known: Tensor | None = None,
    ) -> GuidedCounterfactuals:  # fmt: skip
        """As CounterfactualSoundSampler; synonyms [C,C] bool are those of an open vocabulary: a counterfactual is of
        all classes that it may mean, and made of words alone that training has had.

        The vocabulary must be given when the part was built with words.
        """
        given, propose, fit = cast(Vocabulary, vocabulary), None, None
        if self.generator is not None:
            propose = partial(self._of_words, vocabulary=given, synonyms=synonyms)
        drawn, removal = super().forward(sound, sounding, valid, known, synonyms, propose)
        if self.generator is not None:
            words = given.words().detach()
            reading = given.similarity(sound.detach(), words).softmax(-1).detach()
            fit = masked_mean((self.generator(reading @ words) - sound.detach()).square().mean(-1), valid)
        return GuidedCounterfactuals(drawn.sounds, drawn.classes, drawn.known, fit, removal)

    def _of_words(
        self, sound: Tensor, classes: Tensor, known: Tensor, vocabulary: Vocabulary, synonyms: Tensor | None
    ) -> Proposal:
        """A semantic made of one or two names that do not sound in the clip; in unknown frames a random direction."""
        classes = expand_synonyms(classes, synonyms)
        if synonyms is not None:
            classes = classes | ~self.seen_classes
        chance = torch.rand(classes.shape, device=sound.device).masked_fill(classes, -1)
        first, second = chance.topk(2, dim=1).indices.unbind(1) if classes.shape[1] > 1 else (chance.argmax(1),) * 2
        share = (torch.rand(len(classes), 1, device=sound.device) - 0.5).clamp(min=0)  # mostly one word
        share = share.masked_fill(classes.gather(1, second[:, None]), 0)  # only one word is left that does not sound
        words, any_known = vocabulary.words(), known.any(1)
        made = cast(nn.Module, self.generator)(words[first] * (1 - share) + words[second] * share)
        picked = F.one_hot(first, classes.shape[1]).bool() | (F.one_hot(second, classes.shape[1]).bool() & (share > 0))
        return Proposal(
            torch.where(known[..., None], made[:, None], self.random_direction(sound)),
            expand_synonyms(picked, synonyms) & any_known[:, None],
            any_known & ~(picked & classes).any(1),
            known,
        )
