"""Diagnostics that show whether the parts of ICF work as intended; every run logs them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from icf_avs.distributed import all_gather_clips, local_slice, masked_mean
from icf_avs.types import Batch

_MARGIN = 1e-3  # of cosines


def mean_cosine_between_clips(z: Tensor, valid: Tensor) -> Tensor:
    """Return the mean cosine between texts z [b,T,d] of different clips; near 1: collapse. NaN for a single clip."""
    unit = all_gather_clips(_clip_embedding(z, valid))
    pairs = ~torch.eye(len(unit), dtype=torch.bool, device=z.device)
    return (unit @ unit.T)[pairs].mean()


def class_change_rate(z: Tensor, pool: Tensor, valid: Tensor, sounding: Tensor) -> Tensor:
    """Return the share of counterfactuals [b,K,T,d] whose nearest text z [b,T,d] of all clips is of another class. It
    must be nearer by a margin, so that the share is 0 where all texts have collapsed into one.

    sounding [b,T,C] bool; each clip without known classes counts as a separate class.
    """
    all_texts, counterfactuals = all_gather_clips(_clip_embedding(z, valid)), _clip_embedding(pool, valid[:, None])
    cosine = torch.einsum("bkd,gd->bkg", counterfactuals, all_texts)
    classes = all_gather_clips(sounding.any(1)).float()
    same = (classes @ classes.T > 0) | torch.eye(len(all_texts), dtype=torch.bool, device=z.device)
    same = same[local_slice()][:, None]
    changed = cosine.masked_fill(same, -1).amax(-1) > cosine.masked_fill(~same, -1).amax(-1) + _MARGIN
    return masked_mean(changed.float(), torch.ones_like(changed))


def audio_visual_auroc(vision: Tensor, audio: Tensor, batch: Batch) -> Tensor:
    """Return the ROC AUC of the cosine of positions [b,T,h,w,d] and audio [b,T,d] as a mask score; chance is .5."""
    inside = all_gather_clips(F.adaptive_avg_pool2d(batch.masks, (vision.shape[2], vision.shape[3])) > 0.5)
    score = all_gather_clips(torch.einsum("bthwd,btd->bthw", vision.float(), audio.float()))
    frame_mask = all_gather_clips(batch.labelled & batch.valid)
    score, truth = score[frame_mask].flatten(), inside[frame_mask].flatten().long()
    if not 0 < truth.sum() < truth.numel():
        return torch.full((), torch.nan, device=vision.device)
    return binary_auroc(score.sigmoid(), truth)


def positive_pair_rate(positive: Tensor) -> Tensor:
    """Return the share of pairs of different clips that are positives [b,B] in eq. 16; near 1: nothing to contrast."""
    different = ~torch.eye(positive.shape[1], dtype=torch.bool, device=positive.device)[local_slice()]
    return masked_mean(positive.float(), different)


def _clip_embedding(texts: Tensor, valid: Tensor) -> Tensor:
    """Average frames [...,T,d] to one unit vector for each clip [...,d]."""
    return F.normalize((texts.float() * valid[..., None]).sum(-2), dim=-1)
