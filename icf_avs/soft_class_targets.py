"""Targets by class: which share of a cell of the masks a class takes, by the same area average as the masks.

A map of classes is finer than the masks, 0 where nothing sounds or where the class of what sounds is unknown. What the
masks have beyond all known classes is unknown: no target may call it staying, vanishing, background or any class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDING = 1e-4  # of a share


def area_share(pixels: Tensor, masks: Tensor) -> Tensor:
    """pixels [B,T,H,W] bool, a choice of those that sound -> its share [B,T,h,w] of each cell of masks [B,T,h,w].

    Never more than the mask: a map that is no finer than the masks says what a cell is of, not how much of it.
    """
    return torch.minimum(F.adaptive_avg_pool2d(pixels.to(masks.dtype), (masks.shape[-2], masks.shape[-1])), masks)


def known_cells(class_map: Tensor, masks: Tensor) -> Tensor:
    """[B,T,h,w] bool: cells of which every part that sounds has a known class; background is known."""
    return masks - area_share(class_map > 0, masks) < _ROUNDING


def class_ids(class_map: Tensor) -> list[int]:
    """Ids of the classes in a map."""
    return [number for number in class_map.unique().tolist() if number > 0]


def class_shares(class_map: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Shares [B,T,1+classes,h,w] of background and classes; they add up to less than 1 where a class is unknown."""
    shares = masks.new_zeros(*masks.shape[:2], 1 + classes, *masks.shape[2:])
    shares[:, :, 0] = 1 - masks
    for number in class_ids(class_map):
        shares[:, :, number] = area_share(class_map == number, masks)
    return shares
