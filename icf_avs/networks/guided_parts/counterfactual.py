"""SC, semantic counterfactual of the guided network: counterfactual sounds, every second one generated from words.

Proposals are the semantics z of other clips (extensions/counterfactual_sounds.py), or words of the vocabulary mapped to
a semantic by a generator that is trained on factual pairs (reading of z, z). Not from the paper, which only says that
the representations are orthogonal, latent, diverse, and need no edits of text.
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
    """sounds [K,B,T,D]; classes [K,B,C] bool: the classes of each, where `known` [K,B]; generator_loss: its loss,
    None without one; removal: the factual sound without one of its classes.
    """

    sounds: Tensor
    classes: Tensor
    known: Tensor
    generator_loss: Tensor | None
    removal: SourceRemoval


class GuidedCounterfactualSampler(CounterfactualSoundSampler):
    """Draws K counterfactual sounds for each clip: from donor clips, and with a vocabulary every second from words."""

    def __init__(self, dim: int, classes: int, count: int, words: bool, momentum: float = 0.05) -> None:
        super().__init__(dim, classes, count, momentum)
        words = words and count > 1  # a single counterfactual comes from a donor clip
        self.generator = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)) if words else None

    def forward(  # type: ignore[override]
        self, sound: Tensor, sounding: Tensor, valid: Tensor, vocabulary: Vocabulary | None = None,
        synonyms: Tensor | None = None, known: Tensor | None = None,
    ) -> GuidedCounterfactuals:  # fmt: skip
        """As CounterfactualSoundSampler. synonyms [C,C] bool, of an open vocabulary: with them a counterfactual counts
        as all classes that it may mean, and is generated only from words seen in training.

        The vocabulary must be given if the sampler was built with words.
        """
        vocab, propose, generator_loss = cast(Vocabulary, vocabulary), None, None
        if self.generator is not None:
            propose = partial(self._propose_from_words, vocabulary=vocab, synonyms=synonyms)
        drawn, removal = super().forward(sound, sounding, valid, known, synonyms, propose)
        if self.generator is not None:
            words = vocab.words().detach()
            reading = vocab.similarity(sound.detach(), words).softmax(-1).detach()
            generator_loss = masked_mean((self.generator(reading @ words) - sound.detach()).square().mean(-1), valid)
        return GuidedCounterfactuals(drawn.sounds, drawn.classes, drawn.known, generator_loss, removal)

    def _propose_from_words(
        self, sound: Tensor, classes: Tensor, known: Tensor, vocabulary: Vocabulary, synonyms: Tensor | None
    ) -> Proposal:
        """Propose a semantic from one or two names that do not sound in the clip; in unknown frames a random one."""
        classes = expand_synonyms(classes, synonyms)
        if synonyms is not None:
            classes = classes | ~self.seen_classes
        chance = torch.rand(classes.shape, device=sound.device).masked_fill(classes, -1)
        first, second = chance.topk(2, dim=1).indices.unbind(1) if classes.shape[1] > 1 else (chance.argmax(1),) * 2
        share = (torch.rand(len(classes), 1, device=sound.device) - 0.5).clamp(min=0)  # half of the time one word
        share = share.masked_fill(classes.gather(1, second[:, None]), 0)  # if only one word does not sound
        words, any_known = vocabulary.words(), known.any(1)
        generated = cast(nn.Module, self.generator)(words[first] * (1 - share) + words[second] * share)
        picked = F.one_hot(first, classes.shape[1]).bool() | (F.one_hot(second, classes.shape[1]).bool() & (share > 0))
        return Proposal(
            torch.where(known[..., None], generated[:, None], self.random_direction(sound)),
            expand_synonyms(picked, synonyms) & any_known[:, None],
            any_known & ~(picked & classes).any(1),
            known,
        )
