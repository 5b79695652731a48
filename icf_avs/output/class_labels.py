"""Convert class logits to class ids, at any size.

With a mask, segmented pixels get the likeliest class other than background and all others get background, so class
masks agree with the mask at any threshold. Without a mask, the ids are the argmax over background and classes, as the
AVSS protocol evaluates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_CLASSES = 255  # ids are bytes, and 0 is background
_CLASSES_AT_ONCE = 8  # classes upsampled at a time: all 71 of a 4K frame would take 2.4 GB


def class_labels(logits: Tensor, size: tuple[int, int], mask: Tensor | None = None) -> Tensor:
    """Return class ids, uint8 [H, W]. logits: [C+1, h, w], background first; size: (H, W); mask: bool [H, W].

    Logits are upsampled (bilinear), then compared. In a tie, the first class wins.
    """
    if len(logits) > MAX_CLASSES + 1:
        raise ValueError(f"{len(logits) - 1} classes; ids are bytes, so at most {MAX_CLASSES}")
    best = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    if mask is not None and not mask.any():
        return labels
    first = 0 if mask is None else 1
    for ids in _contenders(logits[first:].float(), mask).split(_CLASSES_AT_ONCE):
        part = logits[None, ids + first].float()
        values, index = F.interpolate(part, size, mode="bilinear", align_corners=False)[0].max(0)
        better = values > best
        best = torch.where(better, values, best)
        labels = torch.where(better, (ids + first).to(torch.uint8)[index], labels)
    return labels if mask is None else labels * mask


def _contenders(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Return indices of the classes that may win anywhere (in the mask) after upsampling [C, h, w]; usually few.

    A bilinear value lies between four input values, which are in each other's 3 x 3 neighbourhood. So a class cannot
    win where its maximum over the neighbourhood is below the minimum of another class.
    """
    highest, lowest = F.max_pool2d(logits, 3, 1, 1), -F.max_pool2d(-logits, 3, 1, 1)
    may_win = highest >= lowest.amax(0)
    if mask is not None:
        may_win &= F.adaptive_max_pool2d(mask[None].float(), logits.shape[1:]) > 0
    return may_win.flatten(1).any(1).nonzero()[:, 0]
