"""What masks must be under an intervention, as losses.

    do(audio := another sound)    what was segmented vanishes; the whole frame is blank where the sound is known to be
                                  of nothing in it
    do(frames := another clip's)  nothing is segmented in frames known to lack what sounds
    do(audio := less source b)    the mask of class b vanishes, that of all else stays

What is in a frame is known of composed scenes alone (`Batch.onscreen`). On sets that label only what sounds, blank
targets are confined to the factual masks. Not from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icf_avs.distributed import all_gather_clips, local_slice
from icf_avs.extensions.counterfactual_sounds import expand_synonyms
from icf_avs.icf import mask_losses
from icf_avs.icf.soft_class_targets import known as known_cells
from icf_avs.icf.soft_class_targets import share
from icf_avs.types import Batch


def sounding_classes(batch: Batch, synonyms: Tensor | None = None) -> Tensor:
    """[B,C] bool: what sounds in a clip, and all that it may be called, by synonyms [C,C] bool."""
    return expand_synonyms(batch.sounding.any(1), synonyms)


def other_sounds(
    logits: Tensor, classes: Tensor, known: Tensor, batch: Batch, frames: Tensor, synonyms: Tensor | None = None
) -> Tensor:
    """logits [K,B,T,h,w] under K sounds of classes [K,B,C] where `known` [K,B]; frames [B,T] or [K,B,T] bool, that are
    asked.
    """
    # A sound that shares a class may rightly be segmented.
    other = ~(classes & sounding_classes(batch, synonyms)).any(-1)
    absent = torch.zeros_like(other)
    if batch.onscreen is not None:
        absent = known & ~(classes & batch.onscreen).any(-1)
    factual = batch.masks.expand(len(logits), *batch.masks.shape)
    return mask_losses.empty_mask(logits, factual, absent[..., None] & frames, other[..., None] & frames)


def of_clip_before(clips: Tensor) -> Tensor:
    """clips [b,...] of this process -> those that come one before them in the whole batch."""
    return all_gather_clips(clips).roll(1, 0)[local_slice()]


def other_frames(logits: Tensor, batch: Batch, frames: Tensor, synonyms: Tensor | None = None) -> Tensor:
    """logits [B,T,h,w] of the frames of each clip under the sound of the clip before; frames [B,T] bool, that are
    asked.
    """
    factual = sounding_classes(batch, synonyms)
    heard = of_clip_before(factual)
    sure = of_clip_before(batch.known & batch.valid) & heard.any(-1, keepdim=True)  # B T
    other = sure & batch.known & ~(heard & factual).any(-1, keepdim=True)
    absent = torch.zeros_like(other)
    if batch.onscreen is not None:
        absent = sure & ~(heard & batch.onscreen).any(-1, keepdim=True)
    return mask_losses.empty_mask(logits, batch.masks, absent & frames, other & frames)


def removed_source(logits: Tensor, removed: Tensor, valid: Tensor, batch: Batch, frames: Tensor) -> Tensor:
    """logits [B,T,h,w] under the sound less class `removed` [B], where that is `valid` [B]; frames [B,T] bool, that are
    asked.
    """
    target, cells = _without(removed, batch)
    asked = frames & valid[:, None] & cells.flatten(2).any(-1)
    return mask_losses.bce(logits, target, asked, cells) + mask_losses.dice(logits, target, asked, cells)


def _without(removed: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """What stays of the masks without class `removed` [B] (an index), and the cells where that is known, both
    [B,T,h,w]: nowhere in a frame whose class map does not tell which pixels belong to the class.
    """
    sounds = batch.sounding.gather(2, removed[:, None, None].expand(-1, batch.sounding.shape[1], 1))[..., 0]
    alone = sounds & (batch.sounding.sum(-1) == 1)  # then all that is marked is of the class
    silent = batch.known & ~sounds  # then none of it is
    vanishing = share(batch.class_map == removed[:, None, None, None] + 1, batch.masks)  # ids of the map count from 1
    vanishing = torch.where(alone[..., None, None], batch.masks, vanishing)
    cells = known_cells(batch.class_map, batch.masks)
    shown = cells.flatten(2).all(-1) | (vanishing > 0).flatten(2).any(-1)
    return batch.masks - vanishing, (cells & shown[..., None, None]) | (alone | silent)[..., None, None]
