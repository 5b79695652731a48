"""Parts of the guided network: implicit text (MIT), its prior, the joint space (CDCL), and the mask decoder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_guided import chosen, loss_terms, random_batch, small_model
from torch import Tensor

from icf_avs.networks.guided_parts.decoder import MaskDecoder, PixelFeatures
from icf_avs.networks.guided_parts.implicit_text import GuidedImplicitText
from icf_avs.networks.guided_parts.joint_embedding import Gaussian, gaussian
from icf_avs.networks.guided_parts.localization_prior import LocalizationPrior
from icf_avs.networks.guided_parts.losses import info_nce, may_be_negatives, wasserstein
from icf_avs.networks.guided_parts.vocabulary import Vocabulary
from icf_avs.types import Batch

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


def draw(*shape: int, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(*shape, generator=generator), 0.1 + torch.rand(*shape, generator=generator))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 12))
def test_wasserstein_equals_the_formula(seed: int, dim: int) -> None:
    """|mu|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), with full matrices."""
    p, q = draw(dim, seed=seed), draw(dim, seed=seed + 1)
    a, b = (np.diag(each.deviation.double() ** 2) for each in (p, q))
    middle = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a) @ b @ scipy.linalg.sqrtm(a)).real
    expected = (p.mean - q.mean).double().square().sum() + np.trace(a + b - 2 * middle)
    assert float(wasserstein(p, q)) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert float(wasserstein(p, q)) == float(wasserstein(q, p)) and float(wasserstein(p, p)) == 0


def test_gaussian_of_weighted_tokens() -> None:
    tokens = torch.tensor([[1.0], [3.0], [99.0]])
    found = gaussian(tokens, torch.tensor([1.0, 3.0, 0.0]), floor=0.5)
    assert float(found.mean) == 2.5
    assert float(found.deviation) == pytest.approx(math.sqrt(0.75 + 0.25))
    nothing = gaussian(tokens.requires_grad_(), torch.zeros(3), floor=0.5)
    assert float(nothing.mean) == 0 and float(nothing.deviation) == 0.5
    nothing.deviation.sum().backward()
    assert torch.isfinite(tokens.grad).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 5), tau=st.sampled_from([0.2, 1.0, 5.0]))
def test_info_nce_equals_the_sums_over_allowed_negatives(seed: int, clips: int, tau: float) -> None:
    """Negatives are positives of other clips, and two counterfactuals of each; zero where none is allowed."""
    shapes = (clips, 3), (clips, 3), (clips, 2, 3)
    anchor, positive, rivals = (draw(*shape, seed=seed + number) for number, shape in enumerate(shapes))
    torch.manual_seed(seed)
    allowed, used, present = torch.rand(clips, clips) < 0.5, torch.rand(clips, 2) < 0.5, torch.rand(clips) < 0.7
    costs = []
    for i in range(clips):
        to_all = torch.cat([positive.mean, rivals.mean[i]]), torch.cat([positive.deviation, rivals.deviation[i]])
        near = (-wasserstein(Gaussian(anchor.mean[i], anchor.deviation[i]), Gaussian(*to_all)) / tau).double().exp()
        negatives = near[torch.cat([allowed[i], used[i]])]
        if present[i] and len(negatives):
            costs.append(-float((near[i] / (near[i] + negatives.sum())).log()))
    found = info_nce(anchor, positive, allowed, [(rivals, used)], torch.tensor(tau), present)
    assert float(found) == pytest.approx(np.mean(costs) if costs else 0, rel=1e-3, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 6), kinds=st.integers(1, 4))
def test_negatives_are_other_clips_that_share_no_class(seed: int, clips: int, kinds: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sounding = torch.rand(clips, kinds, generator=generator) < 0.4
    present = torch.rand(clips, generator=generator) < 0.7
    found = may_be_negatives(sounding, present)
    for i, j in np.ndindex(clips, clips):
        assert found[i, j] == (i != j and present[i] and present[j] and not (sounding[i] & sounding[j]).any())


def contrast(batch: Batch, name: str = "contrast", **switches: bool) -> float:
    model = small_model(**switches).eval()
    torch.manual_seed(0)
    return float(loss_terms(model, batch)[name].detach())


def test_clips_of_one_class_have_only_silent_regions_as_negatives() -> None:
    same, different = random_batch(2, kinds=5), random_batch(2, kinds=5)
    same.sounding[1] = same.sounding[0]
    assert 0 < contrast(same, counterfactual=False) < contrast(different, counterfactual=False)
    for each in (same, different):
        each.masks.fill_(1)  # no silent region
    assert contrast(same, counterfactual=False) == 0 and contrast(different, counterfactual=False) > 0
    assert contrast(same) > 0, "counterfactuals from words are negatives too"


def test_frames_without_a_mask_and_the_order_of_clips_change_nothing() -> None:
    batch, other = random_batch(2, frames=3), random_batch(2, frames=3)
    for each in (batch, other):
        each.masks[:, 2] = 0
        each.class_map[:, 2] = 0
    other.waveforms[:, 2] = 0
    for level in other.pyramid:
        level[:, 2] += 1
    found = [contrast(each, implicit_text=False, counterfactual=False) for each in (batch, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-4) and found[0] > 0
    batch = random_batch(4)
    moved = chosen(batch, torch.tensor([3, 1, 0, 2]))
    found = [contrast(each, "loss", counterfactual=False) for each in (batch, moved)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def decoded(decoder: MaskDecoder, tokens: Tensor, fine: Tensor, sound: Tensor, text: Tensor, *prior: Tensor) -> Tensor:
    return decoder(PixelFeatures(tokens, fine, torch.zeros(0)), sound, text, *(prior or [None])).logits


@pytest.mark.parametrize("prior", [False, True])
def test_several_sounds_have_the_logits_and_gradients_of_each_alone(prior: bool):
    """A single sound goes through the head's plain formula, sharpen([P', S, up(prior)])."""
    torch.manual_seed(0)
    decoder = MaskDecoder(DIM, 8, heads=2, layers=1, queries=3, prior=prior)
    sounds = [torch.randn(3, 2, *sides) for sides in ((DIM,), (2, DIM), (4, 4))][: 3 if prior else 2]
    inputs = [torch.randn(2, DIM, 4, 4), torch.randn(2, 8, 16, 16), *sounds]
    tokens, fine, *sounds = (tensor.requires_grad_() for tensor in inputs)
    found = decoded(decoder, tokens, fine, *sounds)
    wanted = torch.cat([decoded(decoder, tokens, fine, *(x[i : i + 1] for x in sounds)) for i in range(3)])
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-3  # sounds differ
    weight = torch.randn_like(found)
    inputs += decoder.parameters()
    gradients = (torch.autograd.grad((each * weight).sum(), inputs) for each in (found, wanted))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
