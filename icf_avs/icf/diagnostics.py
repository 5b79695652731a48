"""What shows whether the parts of ICF do what they are for; every run logs these figures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from icf_avs.contracts import Batch


def mean_cosine(z: Tensor, valid: Tensor) -> Tensor:
    """Mean cosine between the texts z [B,T,d] of different clips: near 1, the texts have collapsed. NaN for one
    clip.
    """
    unit = _of_clip(z, valid)
    pairs = ~torch.eye(len(unit), dtype=torch.bool, device=z.device)
    return (unit @ unit.T)[pairs].mean()


def changed_share(z: Tensor, pool: Tensor, valid: Tensor, sounding: Tensor) -> Tensor:
    """Share of the counterfactuals [B,K,T,d] to which, of all clips' texts z [B,T,d], one of another class is nearest.

    sounding [B,T,C] bool; clips without known classes count as classes of their own.
    """
    own, other = _of_clip(z, valid), _of_clip(pool, valid[:, None])
    nearest = torch.einsum("bkd,gd->bkg", other, own).argmax(-1)
    classes = sounding.any(1)
    same = (classes.float() @ classes.float().T > 0) | torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (~same.gather(1, nearest)).float().mean()


def joint_auc(vision: Tensor, sound: Tensor, batch: Batch) -> Tensor:
    """AUC by which the cosine of every position [B,T,h,w,d] with its frame's sound [B,T,d] tells the mask; .5 is
    chance.
    """
    inside = F.adaptive_avg_pool2d(batch.masks, vision.shape[2:4]) > 0.5
    frames = batch.labelled & batch.valid
    score = torch.einsum("nhwd,nd->nhw", vision[frames].float(), sound[frames].float())
    truth = inside[frames].flatten().long()
    if not 0 < truth.sum() < truth.numel():
        return torch.full((), torch.nan, device=vision.device)
    return binary_auroc(score.flatten().sigmoid(), truth)


def other_pairs(positive: Tensor) -> Tensor:
    """Share of the pairs of different clips that eq. 16 takes for positives [b,B]: near 1, it contrasts nothing."""
    others = positive.shape[0] * (positive.shape[1] - 1)
    return (positive.sum() - positive.shape[0]) / max(1, others)


def _of_clip(texts: Tensor, valid: Tensor) -> Tensor:
    """[...,T,d] -> the direction of each clip [...,d]."""
    return F.normalize((texts.float() * valid[..., None]).sum(-2), dim=-1)
