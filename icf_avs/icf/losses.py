"""Training losses of ICF (eq. 18-19), and the only definition of their weights.

    L_seg = w_bce BCE + w_dice Dice + w_focal Focal                                           (eq. 18)
    L     = L_seg + w_cf L_cf + w_cdcl (L_va + L_vt + L_at), and the pull term of eq. 3       (eq. 19)

The paper's weights are in its supplement, which was unavailable; these are this project's choice. With a class head
(AVSS), cross-entropy and Dice of the classes are added to eq. 18.
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
    reconstruction: float = 0.1  # if a VQ-VAE replaces the diffusion
    ortho: float = 0.1
    vision_audio: float = 0.2
    vision_text: float = 0.2
    audio_text: float = 0.2
    pull: float = 0.1


def segmentation_losses(output: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
    """Return the terms of eq. 18 over the labelled frames, without padding."""
    masks, frame_mask = batch.masks, batch.labelled & batch.valid
    loss_args = resize_logits(output.logits, masks), masks, frame_mask
    terms = {"bce": bce_loss(*loss_args), "dice": dice_loss(*loss_args), "focal": focal_loss(*loss_args)}
    if output.classes is not None:
        shares = class_shares(batch.class_map, masks, output.classes.shape[2] - 1)
        terms["classes"] = semantic_loss(resize_logits(output.classes, masks), shares, frame_mask)
    if output.auxiliary:
        auxiliary_losses = [
            dice_loss(resize_logits(each, masks), masks, frame_mask) for each in output.auxiliary.values()
        ]
        terms["auxiliary"] = torch.stack(auxiliary_losses).sum()
    return terms


def weighted_sum(terms: dict[str, Tensor], weights: object) -> Tensor:
    """Return L of eq. 19: the sum of the terms, each times the attribute of `weights` with its name."""
    values = [getattr(weights, name.replace("-", "_")) * value for name, value in terms.items()]
    return torch.stack(values).sum()
