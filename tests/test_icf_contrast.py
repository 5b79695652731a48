"""CDCL (eq. 15-17) and the losses (eq. 18-19) against NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icf_avs.icf import CDCL
from icf_avs.icf.contrastive import (
    ContrastInputs,
    DistributionContrast,
    distance,
    multi_positive_nce,
    positive_pairs,
    weighted_nce,
)
from icf_avs.icf.gaussian import fit_gaussians
from icf_avs.icf.losses import ICFLossWeights, weighted_sum
from icf_avs.icf.semantic_counterfactual import CounterfactualPool

SETTINGS = CDCL(dim=16)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equation_16_with_several_positives():
    distances, positive = drawn(4, 6).square(), drawn(4, 6, seed=1) > 0
    positive[torch.arange(4), torch.arange(4)] = True
    present = torch.tensor([True, True, False, True])
    each = np.exp(-distances.numpy() / 0.2)
    shares = (each * positive.numpy()).sum(1) / each.sum(1)
    found = multi_positive_nce(-distances / 0.2, positive, present)
    assert float(found) == pytest.approx(float(-np.log(shares)[present.numpy()].mean()), rel=1e-4)
    # A softmax over the second argument: terms of the anchor alone, as its entropy, cancel.
    shifted = distances + drawn(4, 1, seed=4)
    torch.testing.assert_close(multi_positive_nce(-shifted / 0.2, positive, present), found)


def test_equation_17_with_weights_and_at_chance():
    own, negatives, alpha = -drawn(3).square(), -drawn(3, 5, seed=1).square(), 0.7 + 0.1 * torch.rand(3, 5)
    weights = (1 - alpha).sqrt() / (1 - alpha).sqrt().sum(1, keepdim=True)
    top = np.exp(own.numpy())
    below = top + (weights.numpy() * np.exp(negatives.numpy())).sum(1)
    found = weighted_nce(own, negatives, weights, torch.ones(3, dtype=torch.bool))
    assert float(found) == pytest.approx(float(-np.log(top / below).mean()), rel=1e-4)
    for count in (1, 8):  # at chance it is log 2 for any number of negatives
        weights = torch.full((2, count), 1 / count)
        found = weighted_nce(torch.zeros(2), torch.zeros(2, count), weights, torch.ones(2, dtype=torch.bool))
        assert float(found) == pytest.approx(np.log(2), rel=1e-5)


def test_the_entropy_is_a_small_bias_of_the_candidate():
    features, valid = F.normalize(drawn(2, 5, 16), dim=-1), torch.ones(2, 5, dtype=torch.bool)
    of = fit_gaussians(features, valid)
    plain = distance(of, of, replace(SETTINGS, gamma=0.0))
    assert plain.abs().max() < 1e-5
    per_dimension = distance(of, of, SETTINGS) - plain
    nats = distance(of, of, replace(SETTINGS, entropy="nats")) - plain
    torch.testing.assert_close(per_dimension * 16, nats, rtol=1e-4, atol=1e-5)
    assert per_dimension.abs().max() < 0.2 < nats.abs().min()


def test_measures_of_table_2():
    one, other = drawn(3, 5, 16), drawn(3, 5, 16, seed=1)
    valid = torch.ones(3, 5, dtype=torch.bool)
    pair = fit_gaussians(one, valid), fit_gaussians(other, valid)
    by_frames = (one - other).square().sum(-1).mean(1)
    by_means = (one.mean(1) - other.mean(1)).square().sum(-1)
    torch.testing.assert_close(distance(*pair, replace(SETTINGS, measure="features")), by_frames)
    torch.testing.assert_close(distance(*pair, replace(SETTINGS, measure="prototypes")), by_means)


def test_positives_are_clips_with_equal_audio_text():
    texts = drawn(4, 1, 8).expand(-1, 3, -1).clone()
    texts[2] = texts[0]  # two clips with the same sound
    clips = ContrastInputs(drawn(4, 3, 6), drawn(4, 3, 5), torch.ones(4, 3, dtype=torch.bool), audio_text=texts)
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    assert positive_pairs(clips, SETTINGS).equal(expected)
    assert positive_pairs(clips, replace(SETTINGS, positives="pairs")).equal(torch.eye(4, dtype=torch.bool))


def contrast(**changes: object) -> DistributionContrast:
    torch.manual_seed(0)
    return DistributionContrast(replace(SETTINGS, **changes), 6, 5, 8)


def clips(count: int = 4, frames: int = 3) -> tuple[ContrastInputs, CounterfactualPool]:
    valid = torch.ones(count, frames, dtype=torch.bool)
    made = ContrastInputs(
        drawn(count, frames, 6).requires_grad_(), drawn(count, frames, 5, seed=1).requires_grad_(), valid,
        drawn(count, frames, 8, seed=2).requires_grad_(), drawn(count, frames, 8, seed=3),
    )  # fmt: skip
    weights = torch.full((count, 2), 0.5)
    return made, CounterfactualPool(drawn(count, 2, frames, 8, seed=5), weights)


def test_text_negatives_are_only_the_own_counterfactuals():
    (own, pool), module = clips(), contrast()
    first = own.valid & (torch.arange(4) == 0)[:, None]
    changed = own.text.detach().clone()
    changed[1:] = 7.0
    plain, other = (module(replace(own, valid=first, text=text), pool)["vision-text"] for text in (own.text, changed))
    torch.testing.assert_close(plain, other, msg="only its own")
    plain, other = (module(replace(own, text=text), pool)["vision-text"] for text in (own.text, changed))
    assert not torch.isclose(plain, other)
    plain, repaired = (contrast(other_texts=switch)(own, pool)["vision-text"] for switch in (False, True))
    assert repaired > plain, "with other_texts, those of other clips are negatives too"
    assert contrast()(own, None)["vision-text"] > 0, "and where there are no counterfactuals"


@pytest.mark.parametrize("measure", ["distributions", "features", "prototypes"])
@pytest.mark.parametrize("contrasts", [("vision-audio",), ("vision-text", "audio-text")])
def test_only_selected_contrasts_are_computed_and_reach_the_features(measure, contrasts):
    own, pool = clips()
    terms = contrast(measure=measure, contrasts=contrasts)(own, pool)
    assert set(terms) == set(contrasts)
    sum(terms.values()).backward()
    assert own.vision.grad.any() and torch.isfinite(own.vision.grad).all()


def test_the_total_is_the_weighted_sum():
    terms = {name: torch.tensor(float(i + 1)) for i, name in enumerate(("bce", "vision-audio", "noise"))}
    weights = ICFLossWeights(bce=2.0, vision_audio=0.5, noise=0.25)
    assert float(weighted_sum(terms, weights)) == pytest.approx(2 * 1 + 0.5 * 2 + 0.25 * 3)
