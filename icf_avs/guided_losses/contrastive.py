"""CDCL, collaborative distribution-aware contrastive learning.

    W2^2(p, q) = |mu_p - mu_q|^2 + |sigma_p - sigma_q|^2          2-Wasserstein distance of diagonal Gaussians
    loss(x -> y) = -log  exp(-W2^2(x_i, y_i)/tau) / sum over y_i, negatives and counterfactuals

Inter-modality: audio-vision, audio-text, vision-text, both ways, vision pooled over the sounding region. Collaborative:
the counterfactuals of clip i stand in the denominators of the terms anchored in its vision, the silent region of the
same image in those anchored in its audio; one temperature for all. Negatives are clips of the whole batch, also those
of other processes. Clips that share a sounding class are never negatives of each other, nor are clips whose classes are
unknown. Not from the paper, which gives the two contrasts and that they collaborate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icf_avs.distributed import average, whole
from icf_avs.networks.guided_parts.joint_embedding import Gaussian


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
    """One direction: anchors and positives [b,d] of this process; negatives [b,B] bool, which positives of the whole
    batch may be negatives of which anchor; extra: Gaussians [b,k,d] that are negatives of their own anchor, where [b,k]
    bool; present [b] bool, clips that take part.

    Zero for a batch in which no anchor has anything to be told from.
    """

    def column(x: Gaussian) -> Gaussian:
        return Gaussian(x.mean[:, None], x.deviation[:, None])

    others = wasserstein(column(anchor), Gaussian(whole(positive.mean)[None], whole(positive.deviation)[None]))  # b B
    own = wasserstein(anchor, positive)[:, None]
    distance = torch.cat([own, others] + [wasserstein(column(anchor), other) for other, _ in extra], dim=1)
    usable = torch.cat([torch.ones_like(own, dtype=torch.bool), negatives] + [where for _, where in extra], dim=1)
    logits = (-distance / temperature).masked_fill(~usable, float("-inf"))
    return average(-logits.log_softmax(1)[:, 0], present & usable[:, 1:].any(1))


def negatives(sounding: Tensor, present: Tensor) -> Tensor:
    """[B,C] bool classes, [B] bool -> [B,B] bool: different clips, both present, no sounding class in common."""
    shared = (sounding.to(torch.float32) @ sounding.to(torch.float32).T) > 0
    return ~shared & ~torch.eye(len(shared), dtype=torch.bool, device=shared.device) & present[None] & present[:, None]
