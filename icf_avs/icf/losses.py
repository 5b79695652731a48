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

from icf_avs.mask_losses import bce_loss, dice_loss, focal_loss, resize_logits, semantic_loss
from icf_avs.soft_class_targets import class_shares
from icf_avs.types import Batch, NetworkOutput


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
