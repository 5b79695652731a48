"""Soft class targets: the share of each mask cell that a class takes, by the same area average as the masks.

A class map is finer than the masks, and 0 where nothing sounds or the sounding class is unknown. The part of a mask
that no known class covers is unknown: no target may count it as staying, vanishing, background or any class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDING = 1e-4  # of a share


def area_share(pixels: Tensor, masks: Tensor) -> Tensor:
    """pixels [B,T,H,W] bool, a selection of sounding ones -> its share [B,T,h,w] of each cell of masks [B,T,h,w].

    Never more than the mask: a map that is no finer than the masks gives the class of a cell, not its share.
    """
    return torch.minimum(F.adaptive_avg_pool2d(pixels.to(masks.dtype), (masks.shape[-2], masks.shape[-1])), masks)


def known_cells(class_map: Tensor, masks: Tensor) -> Tensor:
    """Return [B,T,h,w] bool: cells whose sounding parts all have a known class; background is known."""
    return masks - area_share(class_map > 0, masks) < _ROUNDING


def present_class_ids(class_map: Tensor) -> list[int]:
    """Ids of the classes in a map."""
    return [number for number in class_map.unique().tolist() if number > 0]


def class_shares(class_map: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Shares [B,T,1+classes,h,w] of background and classes; they add up to less than 1 where a class is unknown."""
    shares = masks.new_zeros(*masks.shape[:2], 1 + classes, *masks.shape[2:])
    shares[:, :, 0] = 1 - masks
    for number in present_class_ids(class_map):
        shares[:, :, number] = area_share(class_map == number, masks)
    return shares
