"""Mask losses, averaged over the valid frames of the whole batch, across all processes.

frame_mask [B,T] bool: the frames that take part; empty masks and selections are safe. Weights and sums are in
icf/losses.py for ICF, and in networks/guided_parts/losses.py for the guided network.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.distributed import masked_mean

FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25  # Lin et al., arXiv 1708.02002


def resize_logits(logits: Tensor, masks: Tensor) -> Tensor:
    """Resize logits [B,T,...,h,w] to the size of the masks."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    sized = F.interpolate(logits.flatten(0, -3)[None], masks.shape[-2:], mode="bilinear", align_corners=False)
    return sized.reshape(*logits.shape[:-2], *masks.shape[-2:])


def bce_loss(logits: Tensor, target: Tensor, frame_mask: Tensor, cells: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits and target [B,T,h,w], over all pixels or those in cells [B,T,h,w] bool."""
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return masked_mean(_cell_mean(cost, cells), frame_mask)


def dice_loss(logits: Tensor, target: Tensor, frame_mask: Tensor, cells: Tensor | None = None) -> Tensor:
    """Soft Dice loss, over frames whose target is not empty (an empty target has no overlap)."""
    probability = logits.sigmoid()
    if cells is not None:
        probability, target = probability * cells, target * cells
    overlap = 2 * (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return masked_mean(1 - overlap / total.clamp(min=1e-6), frame_mask & (target.sum((-2, -1)) > 0))


def focal_loss(logits: Tensor, masks: Tensor, frame_mask: Tensor) -> Tensor:
    """Focal loss of logits [B,T,h,w] against shares [B,T,h,w] in [0, 1]; the mean over pixels."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = logits.sigmoid()
    missed = probability * (1 - masks) + (1 - probability) * masks
    balance = FOCAL_ALPHA * masks + (1 - FOCAL_ALPHA) * (1 - masks)
    return masked_mean((balance * missed**FOCAL_GAMMA * cross_entropy).mean((-2, -1)), frame_mask)


def semantic_loss(logits: Tensor, shares: Tensor, frame_mask: Tensor) -> Tensor:
    """CE + Dice of logits and class shares [B,T,C+1,h,w]. Cells with a share of unknown class are ignored."""
    cells = shares.sum(2) > 1 - 1e-3
    cross_entropy = _cell_mean(-(shares * logits.log_softmax(2)).sum(2), cells)
    probability, target = (each[:, :, 1:] * cells[:, :, None] for each in (logits.softmax(2), shares))
    overlap, total = 2 * (probability * target).sum((-2, -1)), (probability + target).sum((-2, -1))
    present = frame_mask[..., None] & (target.sum((-2, -1)) > 0)
    return masked_mean(cross_entropy, frame_mask) + masked_mean(1 - overlap / total.clamp(min=1e-6), present)


def suppression_loss(logits: Tensor, factual: Tensor, everywhere: Tensor, inside: Tensor) -> Tensor:
    """Loss of a counterfactual mask, which must be empty. logits [...,h,w]; factual [...,h,w] in [0,1]: mask that must
    vanish. In frames of `inside` [...] bool it covers the factual mask, in those of `everywhere` [...] the whole image.
    """
    cost, size = F.softplus(logits), factual.sum((-2, -1))
    within = (cost * factual).sum((-2, -1)) / size.clamp(min=1e-6)
    return masked_mean(within, inside & (size > 0)) + masked_mean(cost.mean((-2, -1)), everywhere)


def _cell_mean(cost: Tensor, cells: Tensor | None) -> Tensor:
    """Mean of cost [...,h,w] over the chosen cells of each frame."""
    if cells is None:
        return cost.mean((-2, -1))
    return torch.where(cells, cost, 0).sum((-2, -1)) / cells.sum((-2, -1)).clamp(min=1)
