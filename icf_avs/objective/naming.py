"""Supervision of readings in the vocabulary, where the kinds of the sounding objects are known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.objective.mask import average


def sound_reading(logits: Tensor, sounding: Tensor, frames: Tensor) -> Tensor:
    """Cross-entropy of a reading with what sounds.

    logits [B,T,M] (names, then "nothing sounds", then other free words), sounding [B,T,C] bool, frames [B,T] bool.
    The target shares its weight among the sounding kinds; a frame where none sounds is "nothing sounds".
    """
    target = torch.zeros_like(logits)
    silent = ~sounding.any(-1, keepdim=True)
    target[..., : sounding.shape[-1] + 1] = torch.cat([sounding, silent], dim=-1).to(logits.dtype)
    target = target / target.sum(-1, keepdim=True)
    return average(-(target * logits.log_softmax(-1)).sum(-1), frames)


def pixel_reading(logits: Tensor, kinds_map: Tensor, frames: Tensor) -> Tensor:
    """Cross-entropy of the reading of sounding positions with their kind: logits [B,T,M,h,w], kinds_map [B,T,H,W]."""
    ids = F.interpolate(kinds_map.to(logits.dtype), logits.shape[-2:], mode="nearest-exact").long()
    nothing = -100
    target = torch.where((ids > 0) & frames[..., None, None], ids - 1, nothing).flatten(0, 1)
    cost = F.cross_entropy(logits.flatten(0, 1), target, ignore_index=nothing, reduction="none")
    return average(cost, target != nothing)
