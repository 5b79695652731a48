"""Gaussians of frame features against the formulas with full covariance matrices, by SciPy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from icf_avs.icf.gaussian import entropy, fit_gaussians, wasserstein2

EPS = 1e-3


def scipy_w2(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    # The root of a singular product is ill-conditioned; this shrinkage is far below the tolerance.
    tiny = 1e-12 * np.eye(len(s1))
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(s1 + tiny) @ (s2 + tiny) @ scipy.linalg.sqrtm(s1 + tiny))
    return float(np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * root.real))


def sets(count: int, frames: int, dim: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count + frames + dim)
    return scale * torch.randn(count, frames, dim, generator=generator)


@pytest.mark.filterwarnings("ignore:Matrix is singular")  # SciPy's of the shrunk matrices
@pytest.mark.parametrize(
    ("frames", "dim", "scale"), [(5, 64, 0.3), (10, 32, 1.0), (2, 16, 3.0), (12, 8, 0.5), (1, 10, 1.0)]
)
def test_w2_and_entropy_equal_the_formulas_with_full_matrices(frames, dim, scale):
    """Of the valid frames, which two frames of padding follow."""
    features = torch.cat([sets(3, frames, dim, scale), torch.full((3, 2, dim), 99.0)], 1)
    valid = (torch.arange(frames + 2) < frames).expand(3, -1)
    found, clips = entropy(fit_gaussians(features, valid), EPS), features[:, :frames].double().numpy()
    distances = wasserstein2(
        fit_gaussians(features[:, None], valid[:, None]), fit_gaussians(features[None], valid[None])
    )
    torch.testing.assert_close(distances, distances.T)
    assert distances.diagonal().abs().max() < 1e-4
    moments = [(each.mean(0), np.cov(each.T, bias=True)) for each in clips]
    for i in range(3):
        for j in range(3):
            assert distances[i, j] == pytest.approx(scipy_w2(*moments[i], *moments[j]), rel=2e-3, abs=2e-3)
        sign, log_determinant = np.linalg.slogdet(2 * np.pi * np.e * (moments[i][1] + EPS * np.eye(dim)))
        assert sign == 1 and float(found[i]) == pytest.approx(0.5 * log_determinant, abs=2e-3)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("kind", ["constant", "zero", "equal pair", "padding alone"])
def test_gradients_are_finite_where_there_is_no_spread(frames, kind):
    random = sets(2, frames, 16)
    features = {
        "constant": random[:, :1].expand(-1, frames, -1),
        "zero": torch.zeros_like(random),
        "equal pair": random[:1].expand(2, -1, -1),
    }.get(kind, random)
    features, valid = features.clone().requires_grad_(), torch.full((2, frames), kind != "padding alone")
    of = fit_gaussians(features, valid)
    one, other = (type(of)(*(part[i] for part in of)) for i in range(2))
    (wasserstein2(one, other) + entropy(of, EPS).sum()).backward()
    assert torch.isfinite(features.grad).all()


def test_rounding_does_not_change_the_gradient_of_constant_clips():
    """Frames of a constant tone differ only by rounding, which must not turn the gradient."""
    unit = torch.nn.functional.normalize(sets(2, 5, 16), dim=-1)
    every, gradients = torch.ones(5, dtype=torch.bool), []
    for seed in range(2):
        noise = 1e-7 * torch.randn(5, 16, generator=torch.Generator().manual_seed(seed))
        constant = (unit[0, :1] + noise).requires_grad_()
        varied = unit[1].clone().requires_grad_()
        wasserstein2(fit_gaussians(constant, every), fit_gaussians(varied, every)).backward()
        gradients.append(torch.cat([constant.grad, varied.grad]))
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


def test_half_precision_features_are_computed_in_float32():
    of = fit_gaussians(sets(2, 5, 16).bfloat16(), torch.ones(2, 5, dtype=torch.bool))
    assert of.rows.dtype == torch.float32 and torch.isfinite(wasserstein2(of, of)).all()
