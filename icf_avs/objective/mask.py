"""Mask losses. Frames without a label take no part; every function is safe on empty masks and empty selections."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def average(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over the places `where` is true (broadcast); zero, with a gradient path, when there are none."""
    weights = where.to(values.dtype).expand_as(values)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def bce(logits: Tensor, target: Tensor, frames: Tensor) -> Tensor:
    """logits, target [B,T,h,w], frames [B,T] bool -> mean binary cross-entropy over the chosen frames."""
    return average(F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1)), frames)


def dice(logits: Tensor, target: Tensor, frames: Tensor) -> Tensor:
    """Soft Dice loss, mean over chosen frames whose target is not empty (an empty target has no overlap to ask for)."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum((-2, -1))
    total = probability.sum((-2, -1)) + target.sum((-2, -1))
    return average(1 - overlap / total.clamp(min=1e-6), frames & (target.sum((-2, -1)) > 0))


def blank(logits: Tensor, factual: Tensor, everywhere: Tensor, inside: Tensor) -> Tensor:
    """Suppression of a counterfactual mask.

    logits [...,h,w]; factual [...,h,w] in [0,1], the mask that must vanish. Frames in `inside` [...] answer for the
    pixels of the factual mask, frames in `everywhere` [...] for the whole picture as well.
    """
    cost = F.softplus(logits)
    size = factual.sum((-2, -1))
    within = (cost * factual).sum((-2, -1)) / size.clamp(min=1e-6)
    return average(within, inside & (size > 0)) + average(cost.mean((-2, -1)), everywhere)


def semantic(logits: Tensor, target: Tensor, frames: Tensor) -> Tensor:
    """CE + Dice over classes: logits [B,T,C+1,h,w], target [B,T,h,w] long, frames [B,T] bool."""
    cross = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), reduction="none").mean((-2, -1))
    probability = logits.softmax(2)[:, :, 1:]
    wanted = F.one_hot(target, logits.shape[2]).movedim(-1, 2)[:, :, 1:].to(logits.dtype)
    overlap, total = 2 * (probability * wanted).sum((-2, -1)), (probability + wanted).sum((-2, -1))
    present = wanted.sum((-2, -1)) > 0
    return average(cross, frames.flatten()) + average(1 - overlap / total.clamp(min=1e-6), present & frames[..., None])
