"""The losses of training (eq. 18-19), and the only home of their weights.

    L_seg = w_bce BCE + w_dice Dice + w_focal Focal                                           (eq. 18)
    L     = L_seg + w_cf L_cf + w_cdcl (L_va + L_vt + L_at), and the pull term of eq. 3       (eq. 19)

The weights are in the paper's supplement, which could not be had: these are this project's. With a class head (AVSS)
the cross-entropy and Dice of its classes join eq. 18.

Mask losses are means over the valid frames of the whole batch, whichever process has them. frame_mask [B,T] bool: the
frames that take part; empty masks and selections are safe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.distributed import masked_mean
from icf_avs.icf.soft_class_targets import class_shares
from icf_avs.types import Batch, NetworkOutput

FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.25  # Lin et al., arXiv 1708.02002


@dataclass(frozen=True)
class ICFLossWeights:
    """Weight of each term by name."""

    bce: float = 1.0
    dice: float = 1.0
    focal: float = 1.0
    classes: float = 1.0
    auxiliary: float = 0.1
    noise: float = 0.1
    reconstruction: float = 0.1  # of a VQ-VAE in place of the diffusion
    ortho: float = 0.1
    vision_audio: float = 0.2
    vision_text: float = 0.2
    audio_text: float = 0.2
    pull: float = 0.1


def segmentation_losses(output: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
    """The terms of eq. 18 on the frames that are labelled and no padding."""
    masks, frame_mask = batch.masks, batch.labelled & batch.valid
    given = resize_logits(output.logits, masks), masks, frame_mask
    terms = {"bce": bce_loss(*given), "dice": dice_loss(*given), "focal": focal_loss(*given)}
    if output.classes is not None:
        shares = class_shares(batch.class_map, masks, output.classes.shape[2] - 1)
        terms["classes"] = semantic_loss(resize_logits(output.classes, masks), shares, frame_mask)
    if output.auxiliary:
        early = [dice_loss(resize_logits(each, masks), masks, frame_mask) for each in output.auxiliary.values()]
        terms["auxiliary"] = torch.stack(early).sum()
    return terms


def weighted_sum(terms: dict[str, Tensor], weights: object) -> Tensor:
    """L of eq. 19: the terms by the attributes of weights that have their names; 0 for none."""
    values = [getattr(weights, name.replace("-", "_")) * value for name, value in terms.items()]
    return torch.stack(values).sum()


def resize_logits(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits [B,T,...,h,w] at the size of the masks."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    sized = F.interpolate(logits.flatten(0, -3)[None], masks.shape[-2:], mode="bilinear", align_corners=False)
    return sized.reshape(*logits.shape[:-2], *masks.shape[-2:])


def bce_loss(logits: Tensor, target: Tensor, frame_mask: Tensor, cells: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits and target [B,T,h,w], over all or the cells [B,T,h,w] bool of a frame."""
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return masked_mean(_cell_mean(cost, cells), frame_mask)


def dice_loss(logits: Tensor, target: Tensor, frame_mask: Tensor, cells: Tensor | None = None) -> Tensor:
    """Soft Dice loss, over frames whose target is not empty (an empty target has no overlap to ask for)."""
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
    """CE + Dice of logits and class shares [B,T,C+1,h,w]. Cells that are in part of an unknown class take no part."""
    cells = shares.sum(2) > 1 - 1e-3
    cross_entropy = _cell_mean(-(shares * logits.log_softmax(2)).sum(2), cells)
    probability, target = (each[:, :, 1:] * cells[:, :, None] for each in (logits.softmax(2), shares))
    overlap, total = 2 * (probability * target).sum((-2, -1)), (probability + target).sum((-2, -1))
    present = frame_mask[..., None] & (target.sum((-2, -1)) > 0)
    return masked_mean(cross_entropy, frame_mask) + masked_mean(1 - overlap / total.clamp(min=1e-6), present)


def suppression_loss(logits: Tensor, factual: Tensor, everywhere: Tensor, inside: Tensor) -> Tensor:
    """Of a counterfactual mask, which must be empty: logits [...,h,w]; factual [...,h,w] in [0,1], the mask that must
    vanish. Frames in `inside` [...] bool count over the factual mask, those in `everywhere` [...] over the whole image.
    """
    cost, size = F.softplus(logits), factual.sum((-2, -1))
    within = (cost * factual).sum((-2, -1)) / size.clamp(min=1e-6)
    return masked_mean(within, inside & (size > 0)) + masked_mean(cost.mean((-2, -1)), everywhere)


def _cell_mean(cost: Tensor, cells: Tensor | None) -> Tensor:
    """Mean of cost [...,h,w] over the chosen cells of each frame."""
    if cells is None:
        return cost.mean((-2, -1))
    return torch.where(cells, cost, 0).sum((-2, -1)) / cells.sum((-2, -1)).clamp(min=1)
