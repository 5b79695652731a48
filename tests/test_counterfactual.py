"""SC of the guided network: orthogonal around the mean, of given norms, never of a sounding class."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from icf_avs.extensions.counterfactual_sounds import orthogonalize
from icf_avs.networks.guided_parts.counterfactual import GuidedCounterfactuals, GuidedCounterfactualSampler
from icf_avs.networks.guided_parts.vocabulary import Vocabulary


def every(sound: Tensor) -> Tensor:
    """Valid mask without padding [B,T]."""
    return torch.ones(sound.shape[:2], dtype=torch.bool)


def throughout(kinds: Tensor, sound: Tensor) -> Tensor:
    """Classes of clips repeated for all frames: [B,C] -> [B,T,C]."""
    return kinds[:, None].expand(-1, sound.shape[1], -1)


def cosines(factual: Tensor, counterfactuals: Tensor, mean: Tensor) -> Tensor:
    """|cos| around the mean of all pairs of factual and counterfactual sounds, [..., pairs], in float64."""
    every = torch.cat([factual[None], counterfactuals]).double() - mean.double()
    every = torch.nn.functional.normalize(every, dim=-1).movedim(0, -2)
    gram = (every @ every.transpose(-1, -2)).abs()
    upper = torch.triu_indices(len(counterfactuals) + 1, len(counterfactuals) + 1, 1)
    return gram[..., upper[0], upper[1]]


def draw(seed: int, lead: tuple[int, ...], dim: int, count: int, common: float) -> tuple[Tensor, ...]:
    """factual, proposals, mean, norms; common: scale of the mean."""
    generator = torch.Generator().manual_seed(seed)
    mean = common * torch.randn(dim, generator=generator)
    factual = mean + torch.randn(*lead, dim, generator=generator)
    proposals = mean + torch.randn(count, *lead, dim, generator=generator)
    norms = (0.5 + torch.rand(count, *lead, generator=generator)) * dim**0.5
    return factual, proposals, mean, norms


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dim=st.integers(2, 40), seed=st.integers(0, 2**20), common=st.sampled_from([0.0, 1.0, 4.0]))
def test_orthogonal_with_the_given_norms(data: st.DataObject, dim: int, seed: int, common: float) -> None:
    count = data.draw(st.integers(1, dim - 1))
    lead = data.draw(st.sampled_from([(), (3,), (2, 3)]))
    factual, proposals, mean, norms = draw(seed, lead, dim, count, common)
    torch.manual_seed(seed)
    counterfactuals = orthogonalize(factual, proposals, mean, norms)
    assert counterfactuals.shape == proposals.shape and counterfactuals.dtype == torch.float32
    assert cosines(factual, counterfactuals, mean).max() < 1e-5
    assert torch.allclose((counterfactuals - mean).norm(dim=-1), norms, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), count=st.integers(1, 6))
def test_bfloat16_within_its_resolution(seed: int, count: int) -> None:
    parts = [part.bfloat16() for part in draw(seed, (4,), 32, count, 1.0)]
    torch.manual_seed(seed)
    counterfactuals = orthogonalize(*parts)
    assert counterfactuals.dtype == torch.bfloat16
    # Computed in float32: only the result is rounded, by 2^-9.
    assert cosines(parts[0], counterfactuals, parts[2]).max() < 0.02
    assert torch.allclose((counterfactuals - parts[2]).float().norm(dim=-1), parts[3].float(), rtol=0.02)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_more_counterfactuals_than_dimensions_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"{dim} counterfactuals.*{dim} dimensions"):
        orthogonalize(torch.randn(dim), torch.randn(dim, dim), torch.zeros(dim), torch.ones(dim))


@pytest.mark.parametrize("case", ["copies of the factual", "its opposites", "duplicates", "zeros", "the mean"])
@pytest.mark.parametrize("count", [3, 7])
def test_degenerate_proposals(case: str, count: int) -> None:
    factual, proposals, mean, norms = draw(0, (5,), 8, count, 2.0)
    proposals = {
        "copies of the factual": factual.expand_as(proposals),
        "its opposites": (2 * mean - factual).expand_as(proposals),
        "duplicates": proposals[:1].expand_as(proposals),
        "zeros": torch.zeros_like(proposals),
        "the mean": mean.expand_as(proposals),
    }[case]
    torch.manual_seed(0)
    counterfactuals = orthogonalize(factual, proposals.clone(), mean, norms)
    assert torch.isfinite(counterfactuals).all() and cosines(factual, counterfactuals, mean).max() < 1e-5
    assert torch.allclose((counterfactuals - mean).norm(dim=-1), norms, rtol=1e-4)


def test_a_factual_equal_to_the_mean() -> None:
    factual, proposals, mean, norms = draw(1, (4,), 8, 3, 1.0)
    counterfactuals = orthogonalize(mean.expand_as(factual), proposals, mean, norms)
    assert torch.isfinite(counterfactuals).all() and cosines(proposals[0], counterfactuals[1:], mean).isfinite().all()


def test_counterfactuals_differ() -> None:
    """Distances to each other and to the factual are at least the norms; every draw differs."""
    factual, proposals, mean, norms = draw(2, (6,), 16, 5, 3.0)
    counterfactuals = orthogonalize(factual, proposals, mean, norms)
    for i in range(5):
        assert ((counterfactuals[i] - factual).norm(dim=-1) >= norms[i] * 0.999).all()
        for j in range(i):
            distance = (counterfactuals[i] - counterfactuals[j]).norm(dim=-1)
            assert (distance >= torch.maximum(norms[i], norms[j]) * 0.999).all()
    part, sound = GuidedCounterfactualSampler(16, 6, 2, words=False), torch.randn(6, 2, 16)
    kinds = throughout(torch.eye(6, dtype=torch.bool), sound)
    first, second = (part(sound, kinds, every(sound)) for _ in range(2))
    assert (first.sounds - second.sounds).norm(dim=-1).mean() > 1


# The centring.


def with_common_part(seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings [8,2,32] with a common part eight times as long as their differences, and its direction."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
    return 8 * 32**0.5 * common + torch.randn(8, 2, 32, generator=generator), common


def test_counterfactuals_keep_the_common_part() -> None:
    """Fails without centring: counterfactuals would then be unlike any sound, and easy to reject."""
    sound, common = with_common_part(0)
    part, kinds = GuidedCounterfactualSampler(32, 8, 3, words=False), throughout(torch.eye(8, dtype=torch.bool), sound)
    torch.manual_seed(0)
    part(sound, kinds, every(sound))
    part.update_running_means()
    counterfactuals = part(sound, kinds, every(sound)).sounds
    along = (counterfactuals @ common) / (sound @ common)
    assert along.min() > 0.8 and along.max() < 1.2
    offset = (counterfactuals - sound.mean((0, 1))).norm(dim=-1)
    # On the manifold: as far from the mean as sounds are.
    assert offset.max() < 2 * (sound - sound.mean((0, 1))).norm(dim=-1).max()


# Which clips may be donors.


def counterfactuals_of(kinds: Tensor, seed: int, words: bool, count: int = 2) -> GuidedCounterfactuals:
    torch.manual_seed(seed)
    part = GuidedCounterfactualSampler(16, kinds.shape[1], count, words=words)
    vocabulary = Vocabulary(torch.randn(kinds.shape[1], 8), 2, 16) if words else None
    sound = torch.randn(kinds.shape[0], 3, 16)
    return part(sound, throughout(kinds, sound), every(sound), vocabulary)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**20), words=st.booleans())
def test_counterfactuals_never_share_a_class_with_the_clip(data: st.DataObject, seed: int, words: bool) -> None:
    clips, number = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 6))
    share = data.draw(st.sampled_from([0, 0.3, 0.8]))
    kinds = torch.rand(clips, number, generator=torch.Generator().manual_seed(seed)) < share
    counterfactuals = counterfactuals_of(kinds, seed, words, count=3)
    assert counterfactuals.sounds.shape == (3, clips, 3, 16) and torch.isfinite(counterfactuals.sounds).all()
    shared = (counterfactuals.classes & kinds).any(-1)
    assert not (shared & ~kinds.all(1)).any()
    assert not (shared & counterfactuals.known).any(), "where all kinds sound, a word is one of them: not known"
    assert not (counterfactuals.known & ~counterfactuals.classes.any(-1)).any(), "a known one must have a class"


def test_counterfactuals_lie_in_the_plane_of_factual_and_donor() -> None:
    """Plane around the mean; the donor is another clip that shares no class."""
    kinds = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    sound = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0))
    part = GuidedCounterfactualSampler(16, 3, 1, words=False)
    part(sound, throughout(kinds, sound), every(sound))
    part.update_running_means()
    seen: list[set[int]] = [set() for _ in kinds]
    for seed in range(30):
        torch.manual_seed(seed)
        counterfactuals = part(sound, throughout(kinds, sound), every(sound))
        for clip in range(4):
            distance = []
            for donor in range(4):
                plane = torch.stack([sound[clip, 0] - part.mean, sound[donor, 0] - part.mean], dim=1).double()
                basis, _ = torch.linalg.qr(plane)
                rest = (counterfactuals.sounds[0, clip, 0] - part.mean).double()
                distance.append(float((rest - basis @ (basis.T @ rest)).norm() / rest.norm()))
            donor = min((d for d in range(4) if d != clip), key=lambda d: distance[d])
            assert distance[donor] < 1e-4
            assert counterfactuals.classes[0, clip].equal(kinds[donor]) and counterfactuals.known[0, clip]
            seen[clip].add(donor)
    assert seen == [{2, 3}, {2}, {0, 1, 3}, {0, 2}]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), number=st.integers(2, 6))
def test_words_of_sounding_classes_are_never_used(seed: int, number: int) -> None:
    """Checked at the generator's input, not only in the reported classes."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.rand(6, number, generator=generator) < 0.6
    kinds[:, 0] &= ~kinds.all(1)  # leave at least one class to choose
    torch.manual_seed(seed)
    part = GuidedCounterfactualSampler(16, number, 2, words=True)
    vocabulary = Vocabulary(torch.randn(number, 8), 2, 16)
    part.generator = Keep()
    vocabulary.words = lambda: torch.eye(number + 2, 16)  # a mixture of words then equals its shares
    sound = torch.randn(6, 1, 16)
    counterfactuals = part(sound, throughout(kinds, sound), every(sound), vocabulary, known=every(sound))
    shares = part.generator.inputs[0][:, :number]
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert not shares[kinds].any()
    assert (shares > 0).equal(counterfactuals.classes[1]) and counterfactuals.known[1].all()


class Keep(nn.Module):
    """Identity that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach())
        return x


@pytest.mark.parametrize("words", [False, True])
def test_a_batch_of_one(words: bool) -> None:
    counterfactuals = counterfactuals_of(torch.tensor([[True, False, False]]), 0, words)
    assert torch.isfinite(counterfactuals.sounds).all()
    assert not counterfactuals.known[0].any()  # no donor: a random direction, of no class
    assert counterfactuals.known[1].all() == words


def test_the_mean_changes_only_in_training() -> None:
    part = GuidedCounterfactualSampler(4, 3, 1, words=False, momentum=0.25)
    kinds, valid = torch.eye(3, dtype=torch.bool)[:, None].expand(-1, 2, -1), torch.ones(3, 2, dtype=torch.bool)
    part.eval()(torch.ones(3, 2, 4), kinds, valid)
    assert not part.mean.any() and not part.started
    part.update_running_means()
    assert not part.mean.any() and not part.started, "there is nothing to follow"
    part.train()(torch.full((3, 2, 4), 2.0), kinds, valid)
    part.update_running_means()
    assert torch.allclose(part.mean, torch.tensor(2.0))  # the first batch sets it
    part(torch.full((3, 2, 4), 6.0), kinds, valid)
    assert torch.allclose(part.mean, torch.tensor(2.0)), "every part of a batch sees the means of the step before"
    part.update_running_means()
    assert torch.allclose(part.mean, torch.tensor(3.0))
    part.update_running_means()
    part.eval()(torch.full((3, 2, 4), 100.0), kinds, valid)
    part.update_running_means()
    assert torch.allclose(part.mean, torch.tensor(3.0))


def test_running_means_stay_precise_under_autocast() -> None:
    """Under autocast, sums over frames would have eight bits and another type than the means."""
    sound, sounding = torch.randn(40, 9, 8) + 3, torch.rand(40, 9, 4) < 0.2
    parts = [GuidedCounterfactualSampler(8, 4, 1, words=False) for _ in range(2)]
    parts[0](sound, sounding, every(sound))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts[1](sound, sounding, every(sound))
    for part in parts:
        part.update_running_means()
    assert torch.allclose(parts[1].mean, parts[0].mean, atol=1e-5)
    assert torch.allclose(parts[1].class_means, parts[0].class_means, atol=1e-5)


def test_running_mean_without_classes() -> None:
    part, sound = GuidedCounterfactualSampler(8, 0, 1, words=False), torch.randn(2, 3, 8)
    part(sound, torch.zeros(2, 3, 0, dtype=torch.bool), every(sound))
    part.update_running_means()
    assert torch.allclose(part.mean, sound.mean((0, 1)), atol=1e-6) and part.class_means.shape == (0, 8)


def test_parts_of_a_batch_update_the_means_as_the_whole_does() -> None:
    """Weighted by frames, not by parts: two turns of a process, and two processes whose sums are added."""
    torch.manual_seed(0)
    sound, valid = torch.randn(5, 3, 8), torch.rand(5, 3) < 0.7
    sounding = torch.rand(5, 3, 4) < 0.3
    whole, turns, mine, other = (GuidedCounterfactualSampler(8, 4, 1, words=False) for _ in range(4))
    whole(sound, sounding, valid)
    for part in (slice(0, 4), slice(4, 5)):
        turns(sound[part], sounding[part], valid[part])
    mine(sound[:4], sounding[:4], valid[:4])
    other(sound[4:], sounding[4:], valid[4:])
    share = other.pending_sums
    for part in (whole, turns):
        part.update_running_means()
    mine.update_running_means(lambda sums: sums + share)
    single = sounding & valid[..., None] & (sounding.sum(-1, keepdim=True) == 1)
    for part in (whole, turns, mine):
        assert torch.allclose(part.mean, sound[valid].mean(0), atol=1e-6)
        for kind in range(4):
            expected = sound[single[..., kind]].mean(0) if single[..., kind].any() else torch.zeros(8)
            assert torch.allclose(part.class_means[kind], expected, atol=1e-6)
        assert part.seen_classes.equal(single.any(1).any(0))


def test_counterfactuals_have_no_gradient_and_the_generator_learns() -> None:
    torch.manual_seed(0)
    part, vocabulary = GuidedCounterfactualSampler(16, 3, 2, words=True), Vocabulary(torch.randn(3, 8), 2, 16)
    sound = torch.randn(4, 2, 16, requires_grad=True)
    counterfactuals = part(sound, throughout(torch.eye(4, 3, dtype=torch.bool), sound), every(sound), vocabulary)
    assert not counterfactuals.sounds.requires_grad and counterfactuals.removal.sound.requires_grad
    counterfactuals.generator_loss.backward()
    assert sound.grad is None and all(parameter.grad is None for parameter in vocabulary.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_padding_has_no_effect() -> None:
    part, found = GuidedCounterfactualSampler(16, 5, 2, words=True).train(), []
    vocabulary, kinds = Vocabulary(torch.randn(5, 8), 2, 16), torch.eye(3, 5, dtype=torch.bool)
    sound, valid = torch.randn(3, 4, 16), torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    for padding in (0.0, 1e3):
        again, mended = copy.deepcopy(part), sound.clone()
        mended[~valid] = padding
        torch.manual_seed(0)
        counterfactuals = again(mended, throughout(kinds, mended), valid, vocabulary)
        lengths = (counterfactuals.sounds - again.mean).norm(dim=-1)
        again.update_running_means()
        found.append((again.mean, counterfactuals.generator_loss, lengths))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4)


# Source removal.


def taught_part(classes: int = 4, dim: int = 16) -> tuple[GuidedCounterfactualSampler, Tensor]:
    """Sampler that has seen each class alone, and the class directions around a mean of 5 in every channel."""
    torch.manual_seed(0)
    directions = 3 * torch.linalg.qr(torch.randn(dim, dim)).Q[:classes]
    part = GuidedCounterfactualSampler(dim, classes, 1, words=False).train()
    for _ in range(60):
        part((5 + directions)[:, None], torch.eye(classes, dtype=torch.bool)[:, None], torch.ones(classes, 1) > 0)
        part.update_running_means()
    return part, directions


def test_source_removal_keeps_the_other_sources() -> None:
    part, directions = taught_part()
    mixed = (5 + directions[0] + directions[2]).expand(1, 2, -1)
    kinds = torch.tensor([[[1, 0, 1, 0], [0, 0, 1, 0]]], dtype=torch.bool)  # kind 0 in one frame of two
    removed = set()
    for _ in range(20):
        rest = part.eval()(mixed, kinds, every(mixed)).removal
        gone = int(rest.removed)
        removed.add(gone)
        kept = 2 - gone
        assert rest.valid.all()
        left = rest.sound - part.mean
        out = torch.nn.functional.normalize(part.class_means[gone] - part.mean, dim=0)
        assert (left @ out).abs().max() < 1e-4
        assert ((left @ directions[kept]) / directions[kept].norm()).min() > 2
    assert removed == {0, 2}  # any class of the clip, at random


def test_classes_never_heard_alone_are_not_removed() -> None:
    part, directions = taught_part()
    part.seen_classes[:] = torch.tensor([True, False, True, True])
    sound = (5 + directions[[1, 0, 3]])[:, None]
    kinds = torch.tensor([[[0, 1, 0, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 0]]], dtype=torch.bool)
    rest = part.eval()(sound, kinds, every(sound)).removal
    assert rest.valid.tolist() == [False, True, False] and rest.removed[1] == 0


def test_class_means_use_only_frames_of_one_class() -> None:
    part = GuidedCounterfactualSampler(2, 3, 1, words=False).train()
    sound = torch.tensor([[[1.0, 0.0], [8.0, 8.0], [3.0, 0.0], [50.0, 50.0]]])
    kinds = torch.tensor([[[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]], dtype=torch.bool)
    part(sound, kinds, torch.tensor([[True, True, True, False]]))
    part.update_running_means()
    assert part.seen_classes.tolist() == [True, False, False]  # padding and mixtures are ignored
    assert part.class_means.tolist() == [[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
