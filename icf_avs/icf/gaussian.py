"""Gaussians of sets of frame features (eq. 13-14) and the 2-Wasserstein distance between them (in eq. 15).

    mu = mean over the frames,  S = covariance over the frames                                (eq. 13)
    H = 1/2 log((2 pi e)^d det(S + eps I))                                                    (eq. 14)
    W2^2(P, Q) = |mu_P - mu_Q|^2 + Tr(S_P + S_Q - 2 (S_P S_Q)^(1/2))                          (in eq. 15)

The covariance of T frames has rank T - 1 at most, so det S is 0. The entropy is therefore that of S + eps I (eps is not
in the paper); W2 needs no shrinkage. A Gaussian is stored as its centred frames X [T,d] with S = X^T X, and everything
is computed on T x T matrices: Tr((S_P S_Q)^(1/2)) is the sum of the singular values of X_P X_Q^T, and the determinant
lemma gives det(eps I_d + X^T X) = eps^(d-T) det(eps I_T + X X^T). Exact, in O(T^2 d), and with finite gradients for
equal frames, zero frames and a single frame. If the spread of a clip is rounding error only (constant tone, still
image), the gradient of a sum of singular values is a full-size rotation determined by rounding. So a singular value s
is replaced by s^2 / sqrt(s^2 + r^2), whose gradient goes to 0 with s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-5  # r above: far above float32 rounding of unit vectors, far below the spread of distinct frames


class Gaussians(NamedTuple):
    """Gaussians of frame features. mean [...,d]; rows [...,T,d]: centred frames divided by the square root of their
    number, so that rows^T rows is the covariance; valid [...,T] bool: rows of padding frames are zero.
    """

    mean: Tensor
    rows: Tensor
    valid: Tensor

    @property
    def trace(self) -> Tensor:
        """Tr S [...]."""
        return self.rows.square().sum((-2, -1))


def fit_gaussians(features: Tensor, valid: Tensor) -> Gaussians:
    """Fit Gaussians (eq. 13) to frame features [...,T,d]; valid [...,T] bool, False on padding. In float32, because
    singular values have no half-precision kernels. A set without valid frames is a point at zero.
    """
    valid = valid.expand(features.shape[:-1])
    with torch.autocast(features.device.type, enabled=False):
        weight = valid[..., None].to(torch.float32)
        count = weight.sum(-2, keepdim=True).clamp(min=1)
        mean = (features.float() * weight).sum(-2, keepdim=True) / count
        rows = (features.float() - mean) * weight / count.sqrt()
    return Gaussians(mean[..., 0, :], rows, valid)


def wasserstein2(first: Gaussians, second: Gaussians) -> Tensor:
    """Return W2^2 [...], at least 0, between Gaussians whose leading dimensions broadcast."""
    means = (first.mean - second.mean).square().sum(-1)
    squares = torch.linalg.svdvals(first.rows @ second.rows.mT).square()
    cross = (squares / (squares + _ROUNDING**2).sqrt()).sum(-1)
    return (means + first.trace + second.trace - 2 * cross).clamp(min=0)


def entropy(gaussians: Gaussians, shrinkage: float) -> Tensor:
    """Return H (eq. 14) of the Gaussians with covariance S + shrinkage I, in nats: [...].

    Centred frames have no spread along the unit vector u of equal entries. Adding u u^T gives that direction the factor
    1 in the T x T determinant; its exact factor, the shrinkage, is multiplied in. That keeps float32 accurate.
    """
    frames, dim = gaussians.rows.shape[-2:]
    count = gaussians.valid.sum(-1)
    u = gaussians.valid.to(gaussians.rows.dtype) / count.clamp(min=1).sqrt()[..., None]
    inner = gaussians.rows @ gaussians.rows.mT + shrinkage * torch.eye(frames, device=gaussians.rows.device)
    inner = inner + (1 - shrinkage) * u[..., :, None] * u[..., None, :]
    log_determinant = torch.logdet(inner) + (dim - frames + (count > 0)) * math.log(shrinkage)
    return 0.5 * (dim * math.log(2 * math.pi * math.e) + log_determinant)
