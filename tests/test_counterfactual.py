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


def drawn(
    part: GuidedCounterfactualSampler, sound: Tensor, kinds: Tensor, vocabulary: Vocabulary | None = None
) -> GuidedCounterfactuals:
    """Counterfactuals of clips [B,T,D] whose classes [B,C] sound and are known in all frames."""
    return part(sound, kinds[:, None].expand(-1, sound.shape[1], -1), every(sound), vocabulary)


def vocabulary_of(names: int) -> Vocabulary:
    return Vocabulary(torch.randn(names, 8), 2, 16)


def assert_orthogonal(
    factual: Tensor, counterfactuals: Tensor, mean: Tensor, norms: Tensor, most: float = 1e-5, rtol: float = 1e-4
) -> None:
    """|cos| around the mean of all pairs of factual and counterfactual sounds is below `most`, in float64."""
    sounds = torch.cat([factual[None], counterfactuals]).double() - mean.double()
    unit = torch.nn.functional.normalize(sounds, dim=-1).movedim(0, -2)
    assert (unit @ unit.mT).triu(1).abs().max() < most
    assert torch.allclose((counterfactuals - mean).float().norm(dim=-1), norms, rtol=rtol)


def draw(seed: int, lead: tuple[int, ...], dim: int, count: int, common: float) -> tuple[Tensor, ...]:
    """factual, proposals, mean, norms; common: scale of the mean."""
    generator = torch.Generator().manual_seed(seed)
    mean = common * torch.randn(dim, generator=generator)
    factual = mean + torch.randn(*lead, dim, generator=generator)
    proposals = mean + torch.randn(count, *lead, dim, generator=generator)
    norms = (0.5 + torch.rand(count, *lead, generator=generator)) * dim**0.5
    return factual, proposals, mean, norms


def test_bfloat16_within_its_resolution() -> None:
    """Computed in float32: only the result is rounded, by 2^-9."""
    factual, proposals, mean, norms = (part.bfloat16() for part in draw(0, (4,), 32, 6, 1.0))
    counterfactuals = orthogonalize(factual, proposals, mean, norms)
    assert counterfactuals.dtype == torch.bfloat16
    assert_orthogonal(factual, counterfactuals, mean, norms.float(), 0.02, 0.02)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dim=st.integers(2, 40), seed=st.integers(0, 2**20), common=st.sampled_from([0.0, 1.0, 4.0]))
def test_orthogonal_with_the_given_norms(data: st.DataObject, dim: int, seed: int, common: float) -> None:
    count = data.draw(st.integers(1, dim - 1))
    lead = data.draw(st.sampled_from([(), (3,), (2, 3)]))
    factual, proposals, mean, norms = draw(seed, lead, dim, count, common)
    torch.manual_seed(seed)
    counterfactuals = orthogonalize(factual, proposals, mean, norms)
    assert counterfactuals.shape == proposals.shape and counterfactuals.dtype == torch.float32
    assert_orthogonal(factual, counterfactuals, mean, norms)
    with pytest.raises(ValueError, match=f"{dim} counterfactuals.*{dim} dimensions"):
        orthogonalize(torch.randn(dim), torch.randn(dim, dim), mean, torch.ones(dim))


@pytest.mark.parametrize("count", [3, 7])
def test_degenerate_proposals(count: int) -> None:
    factual, proposals, mean, norms = draw(0, (5,), 8, count, 2.0)
    for spans in (factual, 2 * mean - factual, proposals[:1], torch.zeros(8), mean):  # copies, opposites, duplicates
        assert_orthogonal(factual, orthogonalize(factual, spans.expand_as(proposals), mean, norms), mean, norms)
    factual = mean.expand_as(factual)
    assert_orthogonal(factual, orthogonalize(factual, proposals, mean, norms), mean, norms)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**20), words=st.booleans())
def test_counterfactuals_never_share_a_class_with_the_clip(data: st.DataObject, seed: int, words: bool) -> None:
    """Known classes come from another clip that shares none, or from words if any class is silent. Words are checked at
    the generator's input, not only in the reported classes.
    """
    clips, number = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 6))
    share = data.draw(st.sampled_from([0, 0.3, 0.8]))
    torch.manual_seed(seed)
    kinds, part = torch.rand(clips, number) < share, GuidedCounterfactualSampler(16, number, 3, words=words)
    vocabulary, inputs = vocabulary_of(number) if words else None, []
    if words:
        part.generator = nn.Identity()
        part.generator.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
        vocabulary.words = lambda: torch.eye(number + 2, 16)  # a mixture of words then equals its shares
    found = drawn(part, torch.randn(clips, 3, 16), kinds, vocabulary)
    assert found.sounds.shape == (3, clips, 3, 16) and torch.isfinite(found.sounds).all()
    shared = (found.classes & kinds).any(-1)
    assert not (shared & ~kinds.all(1)).any()
    assert not (shared & found.known).any(), "where all kinds sound, a word is one of them: not known"
    assert not (found.known & ~found.classes.any(-1)).any(), "a known one must have a class"
    donors = (kinds.float() @ kinds.float().T == 0) & kinds.any(1) & kinds.any(1)[:, None]
    assert found.known[0].equal(donors.any(1))
    if words:
        free, shares = kinds.any(1) & ~kinds.all(1), inputs[0][:, :number]
        assert found.known[1].equal(free) and torch.allclose(shares.sum(1), torch.ones(clips))
        assert not shares[free][kinds[free]].any() and (shares > 0)[free].equal(found.classes[1, free])


def test_counterfactuals_lie_in_the_plane_of_factual_and_donor() -> None:
    """Plane around the mean, so that counterfactuals keep what all sounds have in common, and as far from it as sounds
    are; the donor is another clip that shares no class.
    """
    kinds = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.bool)
    sound = 8 + torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0))
    part = GuidedCounterfactualSampler(16, 3, 1, words=False)
    drawn(part, sound, kinds)
    part.update_running_means()
    lengths = (sound - part.mean).norm(dim=-1).flatten()
    seen: list[set[int]] = [set() for _ in kinds]
    for seed in range(30):
        torch.manual_seed(seed)
        counterfactuals = drawn(part, sound, kinds)
        for clip in range(4):
            donor = int((kinds == counterfactuals.classes[0, clip]).all(1).nonzero())
            basis, _ = torch.linalg.qr((sound[[clip, donor], 0] - part.mean).double().T)
            rest = (counterfactuals.sounds[0, clip, 0] - part.mean).double()
            assert (rest - basis @ (basis.T @ rest)).norm() < 1e-4 * rest.norm() and counterfactuals.known[0, clip]
            assert (lengths - rest.norm()).abs().min() < 1e-3
            seen[clip].add(donor)
    assert seen == [{2, 3}, {2}, {0, 1, 3}, {0, 2}]


def test_the_mean_changes_only_in_training() -> None:
    part = GuidedCounterfactualSampler(4, 3, 1, words=False, momentum=0.25)
    kinds, valid = torch.eye(3, dtype=torch.bool)[:, None].expand(-1, 2, -1), torch.ones(3, 2, dtype=torch.bool)
    # The first batch in training sets it; every part of a batch sees the means of the step before.
    for training, value, before, after in ((False, 1, 0, 0), (True, 2, 0, 2), (True, 6, 2, 3), (False, 100, 3, 3)):
        part.train(training)(torch.full((3, 2, 4), float(value)), kinds, valid)
        assert torch.allclose(part.mean, torch.tensor(float(before)))
        for _ in range(2):  # the second has nothing to follow
            part.update_running_means()
            assert torch.allclose(part.mean, torch.tensor(float(after))) and bool(part.started) == (after > 0)


def test_running_means_stay_precise_under_autocast() -> None:
    """Under autocast, sums over frames would have eight bits and another type than the means."""
    sound, sounding, found = torch.randn(40, 9, 8) + 3, torch.rand(40, 9, 4) < 0.2, []
    for lower in (False, True):
        part = GuidedCounterfactualSampler(8, 4, 1, words=False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
            part(sound, sounding, every(sound))
        part.update_running_means()
        found.append([part.mean, part.class_means])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [0, 4])
def test_parts_of_a_batch_update_the_means_as_the_whole_does(classes: int) -> None:
    """Weighted by frames, not by parts: two turns of a process, and two processes whose sums are added. Padding and
    mixtures are in no mean of a class.
    """
    torch.manual_seed(0)
    sound, valid = torch.randn(5, 3, 8), torch.rand(5, 3) < 0.7
    sounding = torch.rand(5, 3, classes) < 0.3
    whole, turns, mine, other = (GuidedCounterfactualSampler(8, classes, 1, words=False) for _ in range(4))
    whole(sound, sounding, valid)
    for clips in (slice(0, 4), slice(4, 5)):
        turns(sound[clips], sounding[clips], valid[clips])
    mine(sound[:4], sounding[:4], valid[:4])
    other(sound[4:], sounding[4:], valid[4:])
    share = other.pending_sums
    for part in (whole, turns):
        part.update_running_means()
    mine.update_running_means(lambda sums: sums + share)
    single = sounding & valid[..., None] & (sounding.sum(-1, keepdim=True) == 1)
    for part in (whole, turns, mine):
        assert torch.allclose(part.mean, sound[valid].mean(0), atol=1e-6)
        for kind in range(classes):
            expected = sound[single[..., kind]].mean(0) if single[..., kind].any() else torch.zeros(8)
            assert torch.allclose(part.class_means[kind], expected, atol=1e-6)
        assert part.seen_classes.equal(single.any(1).any(0))


def test_counterfactuals_have_no_gradient_and_the_generator_learns() -> None:
    torch.manual_seed(0)
    part, vocabulary = GuidedCounterfactualSampler(16, 3, 2, words=True), vocabulary_of(3)
    sound = torch.randn(4, 2, 16, requires_grad=True)
    counterfactuals = drawn(part, sound, torch.eye(4, 3, dtype=torch.bool), vocabulary)
    assert not counterfactuals.sounds.requires_grad and counterfactuals.removal.sound.requires_grad
    counterfactuals.generator_loss.backward()
    assert sound.grad is None and all(parameter.grad is None for parameter in vocabulary.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_padding_has_no_effect() -> None:
    part, found = GuidedCounterfactualSampler(16, 5, 2, words=True).train(), []
    vocabulary, kinds = vocabulary_of(5), torch.eye(3, 5, dtype=torch.bool)[:, None].expand(-1, 4, -1)
    sound, valid = torch.randn(3, 4, 16), torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    for padding in (0.0, 1e3):
        again = copy.deepcopy(part)
        torch.manual_seed(0)
        counterfactuals = again(sound.masked_fill(~valid[..., None], padding), kinds, valid, vocabulary)
        lengths = (counterfactuals.sounds - again.mean).norm(dim=-1)
        again.update_running_means()
        found.append((again.mean, counterfactuals.generator_loss, lengths))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-8)


def test_source_removal_keeps_the_other_sources() -> None:
    """Class directions around a mean of 5 in every channel. Classes never heard alone are not removed."""
    torch.manual_seed(0)
    directions, kinds = 3 * torch.linalg.qr(torch.randn(16, 16)).Q[:4], torch.eye(4, dtype=torch.bool)
    part = GuidedCounterfactualSampler(16, 4, 1, words=False)
    for _ in range(60):
        drawn(part, (5 + directions)[:, None], kinds)
        part.update_running_means()
    mixed, removed = (5 + directions[0] + directions[2]).expand(1, 2, -1), set()
    kinds = torch.tensor([[[1, 0, 1, 0], [0, 0, 1, 0]]], dtype=torch.bool)  # kind 0 in one frame of two
    for _ in range(20):
        rest = part.eval()(mixed, kinds, every(mixed)).removal
        gone = int(rest.removed)
        removed.add(gone)
        out = torch.nn.functional.normalize(part.class_means[gone] - part.mean, dim=0)
        kept, left = directions[2 - gone], rest.sound - part.mean
        assert rest.valid.all() and (left @ out).abs().max() < 1e-4 and ((left @ kept) / kept.norm()).min() > 2
    assert removed == {0, 2}  # any class of the clip, at random
    part.seen_classes[1] = False
    kinds = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    rest = drawn(part, (5 + directions[[1, 0, 3]])[:, None], kinds).removal
    assert rest.valid.tolist() == [False, True, False] and rest.removed[1] == 0
