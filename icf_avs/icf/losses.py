"""The losses of training (eq. 18-19), and the only home of their weights.

    L_seg = w_bce BCE + w_dice Dice + w_focal Focal                                           (eq. 18)
    L     = L_seg + w_cf L_cf + w_cdcl (L_va + L_vt + L_at), and the pull term of eq. 3       (eq. 19)

The weights are in the paper's supplement, which could not be had: these are this project's. With a class head (AVSS)
the cross-entropy and Dice of its classes join eq. 18.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.distributed import masked_mean
from icf_avs.icf import mask_losses
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
    frames, logits = batch.labelled & batch.valid, at_size_of(batch.masks, output.logits)
    terms = {of.__name__: of(logits, batch.masks, frames) for of in (mask_losses.bce, mask_losses.dice, focal)}
    if output.classes is not None:
        shares = class_shares(batch.class_map, batch.masks, output.classes.shape[2] - 1)
        terms["classes"] = mask_losses.semantic(at_size_of(batch.masks, output.classes), shares, frames)
    if output.auxiliary:
        early = [
            mask_losses.dice(at_size_of(batch.masks, each), batch.masks, frames) for each in output.auxiliary.values()
        ]
        terms["auxiliary"] = torch.stack(early).sum()
    return terms


def focal(logits: Tensor, masks: Tensor, frames: Tensor) -> Tensor:
    """Focal loss of logits [B,T,h,w] against shares [B,T,h,w] in [0, 1]; the mean over the pixels of these frames."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    probability = logits.sigmoid()
    missed = probability * (1 - masks) + (1 - probability) * masks
    balance = FOCAL_ALPHA * masks + (1 - FOCAL_ALPHA) * (1 - masks)
    return masked_mean((balance * missed**FOCAL_GAMMA * cross_entropy).mean((-2, -1)), frames)


def weighted_sum(terms: dict[str, Tensor], weights: ICFLossWeights) -> Tensor:
    """L of eq. 19: the terms by their weights; 0 for none."""
    values = [getattr(weights, name.replace("-", "_")) * value for name, value in terms.items()]
    return torch.stack(values).sum()


def at_size_of(masks: Tensor, logits: Tensor) -> Tensor:
    """Logits [B,T,...,h,w] at the size of the masks."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    sized = F.interpolate(logits.flatten(0, -3)[None], masks.shape[-2:], mode="bilinear", align_corners=False)
    return sized.reshape(*logits.shape[:-2], *masks.shape[-2:])
