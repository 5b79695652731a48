"""MIT of the guided network: one vocabulary, three granularities, any length; padding has no effect."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.networks.guided_parts.vocabulary import Vocabulary

DIM, TOKENS = 16, 2


def part(segment: int, seed: int = 0) -> GuidedImplicitText:
    torch.manual_seed(seed)
    vocabulary = Vocabulary(torch.randn(5, 8), 3, DIM)
    return GuidedImplicitText(vocabulary, DIM, heads=4, tokens=TOKENS, segment=segment).eval()


def evidence(clips: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(clips, frames, DIM, generator=generator),
        torch.randn(clips, frames, 4, DIM, generator=generator),
        torch.ones(clips, frames, dtype=torch.bool),
    )


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("segment", [1, 2, 3, 10])
def test_any_number_of_frames(frames: int, segment: int) -> None:
    text = part(segment)(*evidence(3, frames))
    assert text["video"].shape == (3, TOKENS, DIM)
    assert text["segment"].shape == (3, -(-frames // segment), TOKENS, DIM)
    assert text["frame"].shape == (3, frames, TOKENS, DIM)
    assert all(torch.isfinite(level).all() for level in text.values())


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 5), padding=st.integers(1, 4), segment=st.integers(1, 4), seed=st.integers(0, 1000))
def test_padding_changes_nothing(frames: int, padding: int, segment: int, seed: int) -> None:
    network = part(segment, seed)
    sound, visual, valid = evidence(2, frames, seed)
    plain = network(sound, visual, valid)
    generator = torch.Generator().manual_seed(seed + 1)
    padded = network(
        torch.cat([sound, 50 * torch.randn(2, padding, DIM, generator=generator)], dim=1),
        torch.cat([visual, 50 * torch.randn(2, padding, 4, DIM, generator=generator)], dim=1),
        torch.cat([valid, torch.zeros(2, padding, dtype=torch.bool)], dim=1),
    )
    assert all(torch.isfinite(level).all() for level in padded.values())
    for level, count in (("video", TOKENS), ("segment", plain["segment"].shape[1]), ("frame", frames)):
        assert torch.allclose(padded[level][:, :count], plain[level], atol=1e-5), level


def test_a_short_last_segment_is_read_as_if_alone() -> None:
    """Three frames in segments of two: the second segment's text depends on frame 3 and the video text only."""
    network = part(2)
    sound, visual, valid = evidence(1, 3)
    changed = sound.clone(), visual.clone()
    changed[0][:, :2] += 3
    changed[1][:, :2] -= 3
    video = network(sound, visual, valid)["video"]

    def last(a: Tensor, b: Tensor) -> Tensor:
        both = torch.stack([a, b.mean(2)], dim=2)[:, 2:]
        return network.of_level("segment", a[:, 2:], both, valid[:, 2:], network.vocabulary.words(), video)

    assert torch.allclose(network(sound, visual, valid)["segment"][:, 1], last(sound, visual), atol=1e-5)
    assert not torch.allclose(network(*changed, valid)["segment"][:, 1], last(sound, visual), atol=1e-2)


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


# The vocabulary.


def test_a_reading_sums_to_one() -> None:
    vocabulary = part(1).vocabulary
    reading = vocabulary.similarity(torch.randn(3, 2, DIM)).softmax(-1)
    assert reading.shape == (3, 2, 8) and vocabulary.silence == 5 and vocabulary.words().shape == (8, DIM)
    assert torch.allclose(reading.sum(-1), torch.ones(3, 2))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([0.01, 1.0, 100.0]))
def test_text_is_a_mixture_of_words_and_a_residual(seed: int, size: float) -> None:
    """Without its residual every token is in the convex hull of the words, tested in random directions."""
    vocabulary = part(1, seed).vocabulary
    tokens = size * torch.randn(20, DIM, generator=torch.Generator().manual_seed(seed))
    mixture = vocabulary.read(tokens) - vocabulary.residual(tokens)
    directions = torch.randn(DIM, 200, generator=torch.Generator().manual_seed(seed + 1))
    assert (mixture @ directions <= (vocabulary.words() @ directions).amax(0) + 1e-3 * size).all()


def test_all_levels_of_text_lie_near_the_vocabulary() -> None:
    network = part(2)
    torch.nn.init.zeros_(network.vocabulary.residual.weight)
    torch.nn.init.zeros_(network.vocabulary.residual.bias)
    words = network.vocabulary.words()
    directions = torch.randn(DIM, 200, generator=torch.Generator().manual_seed(1))
    for level in network(*evidence(2, 3)).values():
        assert (level @ directions <= (words @ directions).amax(0) + 1e-4).all()


def test_a_word_reads_as_itself_whatever_its_norm() -> None:
    vocabulary = part(1).vocabulary
    for scale in (0.1, 1.0, 10.0):
        assert vocabulary.similarity(scale * vocabulary.words()).argmax(-1).tolist() == list(range(8))


@pytest.mark.parametrize("names", [1, 2])
def test_few_names(names: int) -> None:
    vocabulary = Vocabulary(torch.randn(names, 8), 1, DIM)
    assert torch.isfinite(vocabulary.read(torch.randn(3, DIM))).all()
