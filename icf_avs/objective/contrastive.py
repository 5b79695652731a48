"""CDCL, collaborative distribution-aware contrastive learning.

    W2^2(p, q) = |mu_p - mu_q|^2 + |sigma_p - sigma_q|^2          2-Wasserstein distance of diagonal Gaussians
    loss(x -> y) = -log  exp(-W2^2(x_i, y_i)/tau) / sum over y_i, negatives and rivals

Inter-modality: audio-vision, audio-text, vision-text, both ways, vision pooled over the sounding region. Collaborative:
the counterfactuals of clip i stand in the denominators of the terms anchored in its vision, the silent region of the
same picture in those anchored in its audio; one temperature for all. Clips that share a sounding kind are never
negatives of each other. Ours; the paper gives the two contrasts and that they collaborate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icf_avs.model.shared_space import Gaussian


def wasserstein(p: Gaussian, q: Gaussian) -> Tensor:
    """Squared 2-Wasserstein distance; the leading dimensions broadcast."""
    return (p.mean - q.mean).square().sum(-1) + (p.deviation - q.deviation).square().sum(-1)


def info_nce(
    anchor: Gaussian,
    positive: Gaussian,
    negatives: Tensor,
    extra: list[tuple[Gaussian, Tensor]],
    temperature: Tensor,
    present: Tensor,
) -> Tensor:
    """One direction: anchors and positives [B,d]; negatives [B,B] bool, who may be a negative of whom; extra: Gaussians
    [B,k,d] that are negatives of their own anchor, where [B,k] bool; present [B] bool, clips that take part.

    Zero for a batch in which no anchor has anything to be told from.
    """

    def column(x: Gaussian) -> Gaussian:
        return Gaussian(x.mean[:, None], x.deviation[:, None])

    others = wasserstein(column(anchor), Gaussian(positive.mean[None], positive.deviation[None]))  # B B
    own = wasserstein(anchor, positive)[:, None]
    distance = torch.cat([own, others] + [wasserstein(column(anchor), rival) for rival, _ in extra], dim=1)
    usable = torch.cat([torch.ones_like(own, dtype=torch.bool), negatives] + [where for _, where in extra], dim=1)
    logits = (-distance / temperature).masked_fill(~usable, float("-inf"))
    takes_part = (present & usable[:, 1:].any(1)).to(distance.dtype)
    return (-logits.log_softmax(1)[:, 0] * takes_part).sum() / takes_part.sum().clamp(min=1)


def negatives(sounding: Tensor, present: Tensor) -> Tensor:
    """[B,C] bool kinds, [B] bool -> [B,B] bool: different clips, both present, no sounding kind in common."""
    shared = (sounding.to(torch.float32) @ sounding.to(torch.float32).T) > 0
    return ~shared & ~torch.eye(len(shared), dtype=torch.bool, device=shared.device) & present[None] & present[:, None]
