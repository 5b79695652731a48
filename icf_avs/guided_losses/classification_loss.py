"""Supervision of readings in the vocabulary, where the classes of the sounding objects are known."""

from __future__ import annotations

import torch
from torch import Tensor

from icf_avs.distributed import average
from icf_avs.icf.soft_class_targets import present, share


def sound_reading(logits: Tensor, sounding: Tensor, frames: Tensor) -> Tensor:
    """Cross-entropy of a reading with what sounds.

    logits [B,T,M] (names, then "nothing sounds", then other free words), sounding [B,T,C] bool, frames [B,T] bool of
    which it is known what sounds. The target shares its weight among the sounding classes; a frame where none sounds is
    "nothing sounds".
    """
    target = torch.zeros_like(logits)
    silent = ~sounding.any(-1, keepdim=True)
    target[..., : sounding.shape[-1] + 1] = torch.cat([sounding, silent], dim=-1).to(logits.dtype)
    target = target / target.sum(-1, keepdim=True)
    return average(-(target * logits.log_softmax(-1)).sum(-1), frames)


def pixel_reading(logits: Tensor, class_map: Tensor, masks: Tensor, frames: Tensor) -> Tensor:
    """Cross-entropy of the reading of sounding positions with their classes, each by the share that it takes: logits
    [B,T,M,h,w], class_map [B,T,H,W], masks [B,T,h',w'], frames [B,T] bool.
    """
    log_probability = logits.log_softmax(2)
    coarse = torch.nn.functional.adaptive_avg_pool2d(masks, logits.shape[-2:])
    cost, weight = torch.zeros_like(coarse), torch.zeros_like(coarse)
    for number in present(class_map):
        part = share(class_map == number, coarse) * frames[..., None, None]
        cost, weight = cost - part * log_probability[:, :, number - 1], weight + part
    return average(cost / weight.clamp(min=1e-6), weight)
