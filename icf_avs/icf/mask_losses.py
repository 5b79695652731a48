"""Mask losses. Frames without a label take no part; every function is safe on empty masks and empty selections.

Means are over the frames of the whole batch, whichever process has them (`distributed.average`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.distributed import masked_mean


def bce(logits: Tensor, target: Tensor, frames: Tensor, cells: Tensor | None = None) -> Tensor:
    """logits, target [B,T,h,w], frames [B,T] bool -> mean binary cross-entropy over the chosen frames, of each over its
    cells [B,T,h,w] bool (None: all).
    """
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return masked_mean(_over_cells(cost, cells), frames)


def dice(logits: Tensor, target: Tensor, frames: Tensor, cells: Tensor | None = None) -> Tensor:
    """Soft Dice loss, mean over chosen frames whose target is not empty (an empty target has no overlap to ask for)."""
    probability = logits.sigmoid()
    if cells is not None:
        probability, target = probability * cells, target * cells
    overlap = 2 * (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return masked_mean(1 - overlap / total.clamp(min=1e-6), frames & (target.sum((-2, -1)) > 0))


def empty_mask(logits: Tensor, factual: Tensor, everywhere: Tensor, inside: Tensor) -> Tensor:
    """Suppression of a counterfactual mask.

    logits [...,h,w]; factual [...,h,w] in [0,1], the mask that must vanish. Frames in `inside` [...] answer for the
    pixels of the factual mask, frames in `everywhere` [...] for the whole image as well.
    """
    cost = F.softplus(logits)
    size = factual.sum((-2, -1))
    within = (cost * factual).sum((-2, -1)) / size.clamp(min=1e-6)
    return masked_mean(within, inside & (size > 0)) + masked_mean(cost.mean((-2, -1)), everywhere)


def semantic(logits: Tensor, shares: Tensor, frames: Tensor) -> Tensor:
    """CE + Dice over classes: logits, shares [B,T,C+1,h,w] (soft_class_targets.py), frames [B,T] bool. Cells that
    are in part of an unknown class take no part.
    """
    cells = shares.sum(2) > 1 - 1e-3
    cross = _over_cells(-(shares * logits.log_softmax(2)).sum(2), cells)
    probability, wanted = (each[:, :, 1:] * cells[:, :, None] for each in (logits.softmax(2), shares))
    overlap, total = 2 * (probability * wanted).sum((-2, -1)), (probability + wanted).sum((-2, -1))
    present = wanted.sum((-2, -1)) > 0
    return masked_mean(cross, frames) + masked_mean(1 - overlap / total.clamp(min=1e-6), present & frames[..., None])


def _over_cells(cost: Tensor, cells: Tensor | None) -> Tensor:
    """Mean of cost [...,h,w] over the chosen cells of each frame."""
    if cells is None:
        return cost.mean((-2, -1))
    return torch.where(cells, cost, 0).sum((-2, -1)) / cells.sum((-2, -1)).clamp(min=1)
