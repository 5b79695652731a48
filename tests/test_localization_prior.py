"""Localization prior: agreement of sound and position per word, and none in silence."""

from __future__ import annotations

import math

import torch

from icf_avs.networks.guided_parts.localization_prior import LocalizationPrior
from icf_avs.networks.guided_parts.vocabulary import Vocabulary

DIM = 16
SURE = 30.0  # logit of a reading that is certain


def readings(*words: int, count: int = 7) -> torch.Tensor:
    """Logits [M] that share all probability among `words`."""
    logits = torch.zeros(count)
    logits[list(words)] = SURE
    return logits


def vocabulary() -> Vocabulary:
    torch.manual_seed(0)
    return Vocabulary(torch.randn(4, 8), 3, DIM)  # words 0..3 are names, 4 is "nothing sounds"


def test_each_of_two_sources_agrees_with_its_own_place() -> None:
    heard = torch.stack([readings(0), readings(0, 2)])[:, None]  # one source, two sources
    seen = torch.stack([readings(0), readings(2), readings(1), readings(4)])[None, None]  # a row of four positions
    found = vocabulary().agreement(heard, seen)[:, 0, 0]
    least = -7.0
    expected = torch.tensor([[0, least, least, least], [math.log(0.5), math.log(0.5), least, least]])
    assert torch.allclose(found, expected, atol=0.01)


def test_silence_agrees_with_nothing() -> None:
    words = vocabulary()
    nothing = readings(words.silence)
    assert torch.allclose(words.agreement(nothing[None, None], nothing[None, None, None]), torch.tensor(-7.0))


def test_the_prior_adds_the_agreement() -> None:
    words, prior = vocabulary(), LocalizationPrior(DIM)
    tokens, sound, text = torch.randn(2, DIM, 3, 3), torch.randn(4, 2, DIM), torch.randn(4, 2, 5, DIM)
    both, seen = prior(tokens, sound, text, words)
    assert both.shape == (4, 2, 3, 3) and seen.shape == (2, 7, 3, 3)
    with torch.no_grad():
        prior.share.zero_()
    likeness, *_ = prior(tokens, sound, text, words)
    agreement = words.agreement(words.similarity(sound), seen.permute(0, 2, 3, 1))
    assert torch.allclose(both - likeness, 0.5 * agreement, atol=1e-5)
