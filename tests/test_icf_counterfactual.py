"""SC: orthogonality, diffusion steps and pool (eq. 6-12), against NumPy and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icf_avs.icf import SC
from icf_avs.icf.diagnostics import class_change_rate
from icf_avs.icf.diffusion import Denoiser, NoiseSchedule
from icf_avs.icf.semantic_counterfactual import SemanticCounterfactual
from icf_avs.icf.vqvae import VQVAE

SMALL = SC(width=32, blocks=2, jumps=4)


def module(dim: int = 48, **changes: object) -> SemanticCounterfactual:
    torch.manual_seed(0)
    return SemanticCounterfactual(replace(SMALL, **changes), dim, 16)


def states(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_orthogonalized_states_have_the_given_cosine_and_norm(alpha):
    """Over samples, with strength m at its bound 1: cos(z', z) = sqrt(1 - alpha). At 1 they are directions, which
    differ from draw to draw.
    """
    counterfactual = module(orthogonal="samples", bounds=(1.0, 1.0))
    state = 3 * states(4, 5, 48)
    turned, other = (counterfactual.orthogonalize(state, torch.full((4, 5), alpha)) for _ in range(2))
    torch.testing.assert_close(turned.norm(dim=-1), state.norm(dim=-1))
    cosine = F.cosine_similarity(turned, state, dim=-1)
    torch.testing.assert_close(cosine, torch.full_like(cosine, (1 - alpha) ** 0.5), atol=2e-3, rtol=1e-3)
    if alpha == 1:
        assert cosine.abs().max() < 1e-5 and F.cosine_similarity(turned, other, dim=-1).abs().max() < 0.7


@pytest.mark.parametrize("orthogonal", ["both", "samples", "features"])
def test_strengths_stay_inside_their_bounds_and_learn(orthogonal):
    counterfactual = module(orthogonal=orthogonal)
    low, high = SMALL.bounds
    layers = [layer for layer in (counterfactual.samples, counterfactual.features) if layer is not None]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=5)
    found = counterfactual.strength(9 * states(7, 48))
    power = 2 if orthogonal == "both" else 1
    assert low**power <= found.min() and found.max() <= high**power
    assert found.shape == ((7, 1) if orthogonal == "samples" else (7, 48))
    _, terms = counterfactual(states(2, 3, 48), states(2, 3, 16), torch.ones(2, 3, dtype=torch.bool))
    terms["ortho"].backward()
    assert any(layer.weight.grad.any() or layer.bias.grad.any() for layer in layers)


def test_the_schedule_and_the_forward_process_are_those_of_latent_diffusion():
    schedule = NoiseSchedule(1000)
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    abar = np.cumprod(1 - betas)
    np.testing.assert_allclose(schedule.abar[1:].numpy(), abar, rtol=1e-5)
    assert float(schedule.abar[200]) == pytest.approx(0.617, abs=2e-3)
    z, noise = states(3, 8), states(3, 8, seed=2)
    step = torch.tensor([1, 200, 1000])
    expected = np.sqrt(abar[[0, 199, 999]])[:, None] * z.numpy()
    expected = expected + np.sqrt(1 - abar[[0, 199, 999]])[:, None] * noise.numpy()
    np.testing.assert_allclose(schedule.add_noise(z, noise, step).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_one_reverse_step_by_hand_and_the_way_back_with_the_true_noise():
    schedule = NoiseSchedule(1000)
    a, b = float(schedule.abar[200]), float(schedule.abar[100])
    state, noise = states(1, 3), states(1, 3, seed=2)
    clean = (state.numpy() - np.sqrt(1 - a) * noise.numpy()) / np.sqrt(a)
    expected = np.sqrt(b) * clean + np.sqrt(1 - b) * noise.numpy()
    np.testing.assert_allclose(schedule.ddim_step(state, noise, 200, 100).numpy(), expected, rtol=1e-5, atol=1e-6)
    z, state = states(1, 3, seed=3), schedule.add_noise(states(1, 3, seed=3), noise, 200)
    for step, target in ((200, 120), (120, 40), (40, 0)):
        state = schedule.ddim_step(state, noise, step, target)
    torch.testing.assert_close(state, z, rtol=1e-4, atol=1e-5)


def test_a_denoiser_learns_the_noise():
    """For one vector: after a few steps the error is far below that of predicting zero."""
    torch.manual_seed(0)
    denoiser, schedule, z = Denoiser(8, 0, 32, 2), NoiseSchedule(1000), states(1, 8).expand(64, -1)
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    for _ in range(250):
        noise, step = torch.randn(64, 8), torch.randint(100, 201, (64,))
        error = (noise - denoiser(schedule.add_noise(z, noise, step), step, None)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert float(error.detach()) < 0.25


@pytest.mark.parametrize("strategy", ["diffusion", "vqvae", "feature-noise"])
def test_the_pool_has_the_nearest_candidates_without_gradient(strategy, monkeypatch):
    counterfactual = module(strategy=strategy, draws=12, keep=3)
    z, visual = states(2, 4, 48).requires_grad_(), states(2, 4, 16).requires_grad_()
    valid = torch.tensor([[True] * 4, [True, True, False, False]])
    drawn = {}
    generated = counterfactual.generate

    def recorded(every: torch.Tensor, visual: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        drawn.update(alpha=alpha, candidates=generated(every, visual, alpha))
        return drawn["candidates"]

    monkeypatch.setattr(counterfactual, "generate", recorded)
    pool, terms = counterfactual(z, visual, valid)
    assert pool.texts.shape == (2, 3, 4, 48) and not pool.texts.requires_grad
    torch.testing.assert_close(pool.weights.sum(1), torch.ones(2))
    torch.testing.assert_close(pool.texts.norm(dim=-1), z.norm(dim=-1)[:, None].expand(-1, 3, -1).detach())
    candidates, alpha = drawn["candidates"], drawn["alpha"]
    for clip, frames in ((0, 4), (1, 2)):
        near = F.cosine_similarity(candidates[clip, :, :frames], z[clip, :frames].detach()[None], dim=-1).sum(1).numpy()
        best = np.argsort(-near)[:3]
        kept, expected = (F.normalize(each, dim=-1) for each in (pool.texts[clip], candidates[clip, best.copy()]))
        torch.testing.assert_close(kept, expected)
        share = np.sqrt(1 - alpha[clip, best.copy(), 0].numpy())
        np.testing.assert_allclose(pool.weights[clip].numpy(), share / share.sum(), rtol=1e-5)
    assert counterfactual.settings.alpha[0] <= alpha.min() and alpha.max() < counterfactual.settings.alpha[1]
    assert {*terms} == {"diffusion": {"noise", "ortho"}, "vqvae": {"reconstruction", "ortho"}}.get(strategy, set())
    if terms:
        sum(terms.values()).backward()
    else:
        assert not list(counterfactual.parameters())
    assert z.grad is None and visual.grad is None


def test_the_orthogonality_loss_is_equation_10():
    """With strength m at its bound 1, the cosine of z'_t and z_t is sqrt(1 - c)."""
    for c in (0.0, 0.3, 0.75):
        counterfactual = module(8, orthogonal="samples", bounds=(1.0, 1.0), alpha=(c, c), lambda_ortho=3.0)
        _, terms = counterfactual(states(1, 2, 8), states(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
        expected = 3 * (2 * (1 - np.sqrt(1 - c)) + SMALL.lambda_z * (1 - c))
        assert float(terms["ortho"].detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("strategy", ["diffusion", "vqvae"])
def test_padding_frames_change_no_term(strategy):
    counterfactual, valid, found = module(strategy=strategy), torch.tensor([[True, True, False]]), []
    for padding in (0.0, 50.0):
        z = states(1, 3, 48)
        z[:, 2] = padding
        torch.manual_seed(3)
        found.append(counterfactual(z, states(1, 3, 16), valid)[1])
    torch.testing.assert_close(*found)


def test_feature_noise_by_hand():
    """sqrt(1 - alpha) z + sqrt(alpha) eps, with the cosine to z that follows."""
    counterfactual, z = module(512, strategy="feature-noise"), states(1, 64, 1, 512)
    alpha = torch.tensor([0.0, 0.75])[:, None].expand(-1, 32).reshape(1, 64, 1)
    found = counterfactual.generate(z, states(1, 1, 16), alpha)
    assert found[0, :32].equal(z[0, :32])
    assert F.cosine_similarity(found, z, dim=-1)[0, 32:].mean() == pytest.approx(0.5, abs=0.03)


def test_swapped_texts_are_the_nearest_of_other_clips():
    """Four clips in the plane; the last has one frame, which is repeated for longer clips."""
    angle = torch.tensor([[0.0, 0.1], [0.4, 0.5], [3.0, 3.1], [0.1, 9.0]])
    z = 3 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    valid = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    pool, terms = module(2, strategy="pair-swap", keep=2)(z * valid[..., None], states(4, 2, 16), valid)
    assert not terms and pool.weights.equal(torch.full((4, 2), 0.5))
    last = z[3, [0, 0]]
    torch.testing.assert_close(pool.texts[0], torch.stack([last, z[1]]))
    torch.testing.assert_close(pool.texts[1], torch.stack([last, z[0]]))
    torch.testing.assert_close(pool.texts[2], torch.stack([z[1], last]))
    torch.testing.assert_close(pool.texts[3, :, 0], torch.stack([z[0, 0], z[1, 0]]))
    assert not pool.texts[3, :, 1].any(), "padding"
    one, _ = module(8, strategy="pair-swap")(states(1, 2, 8), states(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
    assert one.texts.shape == (1, 0, 2, 8) and one.weights.shape == (1, 0), "there is no other clip"


def test_vqvae_uses_the_nearest_codes_and_trains_all_parts():
    vqvae = VQVAE(replace(SMALL, parts=4, codes=5), 8, 3)
    z, visual = states(6, 8), states(6, 3, seed=2)
    latent = vqvae.encode(z)
    parts, codes = latent.detach().view(6, 4, 2).numpy(), vqvae.codebooks.detach().numpy()
    nearest = np.linalg.norm(parts[:, :, None] - codes[None], axis=-1).argmin(-1)
    expected = np.stack([codes[np.arange(4), row].ravel() for row in nearest])
    quantised = vqvae.quantize(latent)
    np.testing.assert_array_equal(quantised.detach().numpy(), expected)
    rebuilt = vqvae.decode(quantised, visual).detach().numpy()
    loss = (rebuilt - z.numpy()) ** 2 + 1.25 * (latent.detach().numpy() - expected) ** 2
    np.testing.assert_allclose(vqvae.loss(z, visual).detach().numpy(), loss.mean(-1), rtol=1e-4)
    vqvae.loss(z, visual).mean().backward()
    assert all(parameter.grad.any() for parameter in vqvae.parameters())
    with pytest.raises(ValueError, match="z of 8 numbers has no 3 parts"):
        VQVAE(replace(SMALL, parts=3), 8, 3)


def test_class_change_rate_counts_nearest_texts_but_no_ties():
    """Two dogs and a cat: for a dog, a counterfactual at the cat's text counts, one at the other dog's does not."""
    texts = torch.eye(4)[:3, None]  # B T d
    sounding = torch.tensor([[1, 0], [1, 0], [0, 1]], dtype=torch.bool)[:, None]
    pool = torch.eye(4)[torch.tensor([[2, 1], [0, 2], [2, 2]])][:, :, None]  # B K T d
    every = torch.ones(3, 1, dtype=torch.bool)
    assert float(class_change_rate(texts, pool, every, sounding)) == pytest.approx(2 / 6)
    for seed in range(4):  # equal except for rounding
        noise = 1e-6 * torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(seed))
        assert float(class_change_rate(torch.ones(3, 1, 4) + noise, pool, every, sounding)) == 0
