"""CDCL of the guided network: distance and loss by hand, and which clips are negatives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_guided import chosen, loss_terms, random_batch, small_model
from torch import Tensor

from icf_avs.networks.guided_parts.joint_embedding import Gaussian, gaussian
from icf_avs.networks.guided_parts.losses import info_nce, may_be_negatives, wasserstein
from icf_avs.types import Batch

ONE = torch.ones(())


def draw(*shape: int, seed: int = 0) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    return Gaussian(torch.randn(*shape, generator=generator), 0.1 + torch.rand(*shape, generator=generator))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 12))
def test_wasserstein_equals_the_formula(seed: int, dim: int) -> None:
    """|mu|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), with full matrices."""
    p, q = draw(dim, seed=seed), draw(dim, seed=seed + 1)
    a, b = torch.diag(p.deviation.double() ** 2), torch.diag(q.deviation.double() ** 2)
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    middle = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    expected = (p.mean - q.mean).double().square().sum() + a.trace() + b.trace() - 2 * middle
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


def loss(anchor: Gaussian, positive: Gaussian, allowed: Tensor, extra=(), temperature=ONE, present=None) -> float:
    present = allowed[:, 0] | True if present is None else present
    return float(info_nce(anchor, positive, allowed, list(extra), temperature, present))


def test_loss_by_hand() -> None:
    """One dimension: anchors 0 and 10, positives 1 and 10, counterfactuals 0.5 and 50."""
    flat = torch.full((2, 1), 0.1)
    anchor, positive = (Gaussian(torch.tensor([[a], [b]]), flat) for a, b in ((0.0, 10.0), (1.0, 10.0)))
    rival = Gaussian(torch.tensor([[[0.5]], [[50.0]]]), flat[:, None])
    allowed = ~torch.eye(2, dtype=torch.bool)
    tau = 2.0

    def one(own: float, others: list[float]) -> float:
        return -math.log(math.exp(-own / tau) / sum(math.exp(-x / tau) for x in [own, *others]))

    found = loss(anchor, positive, allowed, [(rival, torch.ones(2, 1, dtype=torch.bool))], torch.tensor(tau))
    assert found == pytest.approx((one(1, [100, 0.25]) + one(0, [81, 1600])) / 2, rel=1e-5)
    masked = loss(anchor, positive, allowed, [(rival, torch.tensor([[False], [True]]))], torch.tensor(tau))
    assert masked == pytest.approx((one(1, [100]) + one(0, [81])) / 2, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), clips=st.integers(1, 6), kinds=st.integers(1, 4))
def test_negatives_are_other_clips_that_share_no_class(seed: int, clips: int, kinds: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sounding = torch.rand(clips, kinds, generator=generator) < 0.4
    present = torch.rand(clips, generator=generator) < 0.7
    both = [
        [i != j and bool(present[i] & present[j] & ~(sounding[i] & sounding[j]).any()) for j in range(clips)]
        for i in range(clips)
    ]
    assert may_be_negatives(sounding, present).tolist() == both


def test_only_negatives_affect_the_loss() -> None:
    anchor, positive = draw(3, 4), draw(3, 4, seed=1)
    allowed = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)  # 0 and 1 share a class
    before = loss(anchor, positive, allowed, present=torch.tensor([True, False, False]))
    positive.mean[1] = anchor.mean[0]  # distance 0
    assert loss(anchor, positive, allowed, present=torch.tensor([True, False, False])) == before
    positive.mean[2] = anchor.mean[0]
    assert loss(anchor, positive, allowed, present=torch.tensor([True, False, False])) > before


def test_the_loss_without_negatives_is_zero() -> None:
    anchor = Gaussian(torch.randn(1, 4, requires_grad=True), torch.ones(1, 4))
    nobody = torch.zeros(1, 1, dtype=torch.bool)
    value = info_nce(anchor, draw(1, 4), nobody, [], ONE, torch.ones(1, dtype=torch.bool))
    value.backward()
    assert float(value) == 0 and not anchor.mean.grad.any()
    nowhere, everybody = torch.zeros(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    assert loss(draw(3, 4), draw(3, 4), everybody, present=nowhere) == 0


def contrast(batch: Batch, name: str = "contrast", **switches: bool) -> float:
    model = small_model(**switches).eval()
    torch.manual_seed(0)
    return float(loss_terms(model, batch)[name])


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
