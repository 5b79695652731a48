"""Gaussians of sets of frame features (eq. 13-14) and the 2-Wasserstein distance between them (in eq. 15).

    mu = mean over the frames,  S = covariance over the frames                                (eq. 13)
    H = 1/2 log((2 pi e)^d det(S + eps I))                                                    (eq. 14)
    W2^2(P, Q) = |mu_P - mu_Q|^2 + Tr(S_P + S_Q - 2 (S_P S_Q)^(1/2))                          (in eq. 15)

T frames give a covariance of rank T - 1 at most, so that det S is 0: the entropy is that of S + eps I (eps is not in
the paper); W2 needs no shrinkage. A Gaussian is held by its centred frames X [T,d], S = X^T X, and everything is
computed in T x T: Tr((S_P S_Q)^(1/2)) is the sum of the singular values of X_P X_Q^T, and the determinant follows
from the lemma det(eps I_d + X^T X) = eps^(d-T) det(eps I_T + X X^T). Exact, in O(T^2 d), and with finite gradients
where frames are equal, zero, or one alone. Where a clip has no spread but that of rounding (a constant tone, a still
image), the gradient of a sum of singular values is a rotation of full size that rounding chooses: a singular value s
counts as s^2 / sqrt(s^2 + r^2), whose gradient goes to 0 with s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-5  # r above: far over the rounding of unit vectors in float32, far below the spread of unlike frames


class Gaussians(NamedTuple):
    """mean [...,d]; rows [...,T,d]: centred frames over the root of their number, so that rows^T rows is the
    covariance; valid [...,T] bool: padding frames are rows of zeros.
    """

    mean: Tensor
    rows: Tensor
    valid: Tensor

    @property
    def trace(self) -> Tensor:
        """Tr S [...]."""
        return self.rows.square().sum((-2, -1))


def fit_gaussians(features: Tensor, valid: Tensor) -> Gaussians:
    """Eq. 13: frame features [...,T,d] and valid [...,T] bool, False on padding -> Gaussians, in float32: singular
    values have no half-precision kernels. A set without any valid frame is a point at zero.
    """
    valid = valid.expand(features.shape[:-1])
    with torch.autocast(features.device.type, enabled=False):
        weight = valid[..., None].to(torch.float32)
        count = weight.sum(-2, keepdim=True).clamp(min=1)
        mean = (features.float() * weight).sum(-2, keepdim=True) / count
        rows = (features.float() - mean) * weight / count.sqrt()
    return Gaussians(mean[..., 0, :], rows, valid)


def wasserstein2(first: Gaussians, second: Gaussians) -> Tensor:
    """W2^2 between Gaussians whose leading dimensions broadcast: [...], at least 0."""
    means = (first.mean - second.mean).square().sum(-1)
    squares = torch.linalg.svdvals(first.rows @ second.rows.mT).square()
    cross = (squares / (squares + _ROUNDING**2).sqrt()).sum(-1)
    return (means + first.trace + second.trace - 2 * cross).clamp(min=0)


def entropy(of: Gaussians, shrinkage: float) -> Tensor:
    """Eq. 14: H of the Gaussians with covariance S + shrinkage I, in nats: [...].

    Centred frames have no spread along their sum u: u u^T gives that direction the factor 1 in the T x T determinant,
    and its true factor, the shrinkage, is put in exactly. That keeps float32 accurate.
    """
    frames, dim = of.rows.shape[-2:]
    count = of.valid.sum(-1)
    along = of.valid.to(of.rows.dtype) / count.clamp(min=1).sqrt()[..., None]
    inner = of.rows @ of.rows.mT + shrinkage * torch.eye(frames, device=of.rows.device)
    inner = inner + (1 - shrinkage) * along[..., :, None] * along[..., None, :]
    log_determinant = torch.logdet(inner) + (dim - frames + (count > 0)) * math.log(shrinkage)
    return 0.5 * (dim * math.log(2 * math.pi * math.e) + log_determinant)
