"""MIT of the guided network: one vocabulary, three granularities, any length; the prior reads sound and position."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.networks.guided_parts.localization_prior import LocalizationPrior
from icf_avs.networks.guided_parts.vocabulary import Vocabulary

DIM, TOKENS = 16, 2


def vocabulary_of(names: int, free_words: int = 3) -> Vocabulary:
    torch.manual_seed(0)
    return Vocabulary(torch.randn(names, 8), free_words, DIM)


def part(segment: int) -> GuidedImplicitText:
    return GuidedImplicitText(vocabulary_of(5), DIM, heads=4, tokens=TOKENS, segment=segment).eval()


def evidence(clips: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(clips, frames, DIM, generator=generator),
        torch.randn(clips, frames, 4, DIM, generator=generator),
        torch.ones(clips, frames, dtype=torch.bool),
    )


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 5), padding=st.integers(1, 4), segment=st.integers(1, 10), seed=st.integers(0, 1000))
def test_any_number_of_frames_and_padding_changes_nothing(frames: int, padding: int, segment: int, seed: int) -> None:
    network, (sound, visual, valid), rest = part(segment), evidence(2, frames, seed), evidence(2, padding, seed + 1)
    plain = network(sound, visual, valid)
    assert plain["video"].shape == (2, TOKENS, DIM) and plain["frame"].shape == (2, frames, TOKENS, DIM)
    assert plain["segment"].shape == (2, -(-frames // segment), TOKENS, DIM)
    padded = network(
        torch.cat([sound, 50 * rest[0]], dim=1), torch.cat([visual, 50 * rest[1]], dim=1),
        torch.cat([valid, ~rest[2]], dim=1),
    )  # fmt: skip
    assert all(torch.isfinite(level).all() for level in padded.values())
    for level, expected in plain.items():
        assert torch.allclose(padded[level][:, : expected.shape[1]], expected, atol=1e-5), level


def test_levels_depend_on_their_scope() -> None:
    """A change of frame 4 reaches all its levels; other frames only through coarser levels."""
    network = part(2)
    sound, visual, valid = evidence(1, 4)
    other = sound.clone()
    other[:, 3] += 2
    before, after = network(sound, visual, valid), network(other, visual, valid)
    moved = {level: (after[level] - before[level]).abs().amax((-1, -2))[0] for level in before}
    assert moved["video"] > 1e-3 and moved["segment"][1] > 1e-3 and moved["frame"][3] > 1e-3
    assert moved["frame"][3] > moved["frame"][2] > moved["frame"][0] and moved["segment"][1] > moved["segment"][0]


def test_texts_of_all_levels_are_mixtures_of_words_and_a_residual() -> None:
    """Without its residual every token is in the convex hull of the words, tested in random directions."""
    network = part(2)
    for parameter in network.vocabulary.residual.parameters():
        torch.nn.init.zeros_(parameter)
    directions = torch.randn(DIM, 200, generator=torch.Generator().manual_seed(1))
    most = (network.vocabulary.words() @ directions).amax(0)
    for level in network(*evidence(2, 3)).values():
        assert (level @ directions <= most + 1e-4).all()


def test_a_word_reads_as_itself_whatever_its_norm() -> None:
    vocabulary = vocabulary_of(5)
    for scale in (0.1, 1.0, 10.0):
        assert vocabulary.similarity(scale * vocabulary.words()).argmax(-1).tolist() == list(range(8))
    assert torch.isfinite(vocabulary_of(1, free_words=1).read(torch.randn(3, DIM))).all()


# The prior.


def readings(*words: int) -> Tensor:
    """Logits [7] of a reading that is certain, sharing all probability among `words`."""
    logits = torch.zeros(7)
    logits[list(words)] = 30.0
    return logits


def test_each_of_two_sources_agrees_with_its_own_place_and_silence_with_nothing() -> None:
    """Words 0 to 3 are names, 4 is "nothing sounds"."""
    heard = torch.stack([readings(0), readings(0, 2), readings(4)])[:, None]  # one source, two sources, none
    seen = torch.stack([readings(0), readings(2), readings(1), readings(4)])[None, None]  # a row of four positions
    found = vocabulary_of(4).agreement(heard, seen)[:, 0, 0]
    least, half = -7.0, math.log(0.5)
    expected = torch.tensor([[0, least, least, least], [half, half, least, least], [least] * 4])
    assert torch.allclose(found, expected, atol=0.01)


def test_the_prior_adds_the_agreement() -> None:
    words, prior = vocabulary_of(4), LocalizationPrior(DIM)
    tokens, sound, text = torch.randn(2, DIM, 3, 3), torch.randn(4, 2, DIM), torch.randn(4, 2, 5, DIM)
    both, seen = prior(tokens, sound, text, words)
    assert both.shape == (4, 2, 3, 3) and seen.shape == (2, 7, 3, 3)
    with torch.no_grad():
        prior.share.zero_()
    likeness, *_ = prior(tokens, sound, text, words)
    agreement = words.agreement(words.similarity(sound), seen.permute(0, 2, 3, 1))
    assert torch.allclose(both - likeness, 0.5 * agreement, atol=1e-5)
