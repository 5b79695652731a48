"""Losses of masks under an intervention. The targets:

    do(audio := another sound)    the factual mask vanishes; the whole frame is blank where the sound is known to match
                                  no object in it
    do(frames := another clip's)  nothing is segmented in frames known to lack the sounding classes
    do(audio := less source b)    the mask of class b vanishes, the rest of the mask stays

Only composed scenes say which classes are in a frame (`Batch.onscreen`). On sets that label only what sounds, blank
targets are confined to the factual masks. Not from the paper. frame_mask [B,T] bool: the frames that take part;
synonyms [C,C] bool: classes that may mean the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from icf_avs.distributed import all_gather_clips, local_slice
from icf_avs.extensions.counterfactual_sounds import expand_synonyms
from icf_avs.mask_losses import bce_loss, dice_loss, suppression_loss
from icf_avs.soft_class_targets import area_share, known_cells
from icf_avs.types import Batch


def sounding_classes(batch: Batch, synonyms: Tensor | None = None) -> Tensor:
    """Return [B,C] bool: the classes that sound in a clip, and their synonyms."""
    return expand_synonyms(batch.sounding.any(1), synonyms)


def other_sound_loss(
    logits: Tensor, classes: Tensor, known: Tensor, batch: Batch, frame_mask: Tensor, synonyms: Tensor | None = None
) -> Tensor:
    """Loss of logits [K,B,T,h,w] under K sounds of classes [K,B,C] where `known` [K,B]; frame_mask [B,T] or [K,B,T]."""
    # A sound that shares a class may rightly be segmented.
    other = ~(classes & sounding_classes(batch, synonyms)).any(-1)
    absent = torch.zeros_like(other) if batch.onscreen is None else known & ~(classes & batch.onscreen).any(-1)
    factual = batch.masks.expand(len(logits), *batch.masks.shape)
    return suppression_loss(logits, factual, absent[..., None] & frame_mask, other[..., None] & frame_mask)


def previous_clip(clips: Tensor) -> Tensor:
    """Return for clips [b,...] of this process the previous clips of the whole batch (for the first, the last)."""
    return all_gather_clips(clips).roll(1, 0)[local_slice()]


def other_frames_loss(logits: Tensor, batch: Batch, frame_mask: Tensor, synonyms: Tensor | None = None) -> Tensor:
    """Loss of logits [B,T,h,w]: the frames of each clip under the sound of the previous clip."""
    factual = sounding_classes(batch, synonyms)
    previous_classes = previous_clip(factual)
    known = previous_clip(batch.known & batch.valid) & previous_classes.any(-1, keepdim=True)  # B T
    other = known & batch.known & ~(previous_classes & factual).any(-1, keepdim=True)
    absent = torch.zeros_like(other)
    if batch.onscreen is not None:
        absent = known & ~(previous_classes & batch.onscreen).any(-1, keepdim=True)
    return suppression_loss(logits, batch.masks, absent & frame_mask, other & frame_mask)


def removed_source_loss(logits: Tensor, removed: Tensor, valid: Tensor, batch: Batch, frame_mask: Tensor) -> Tensor:
    """Loss of logits [B,T,h,w] under the sound without class `removed` [B], over the clips that are `valid` [B]."""
    target, cells = _without_class(removed, batch)
    frame_mask = frame_mask & valid[:, None] & cells.flatten(2).any(-1)
    return bce_loss(logits, target, frame_mask, cells) + dice_loss(logits, target, frame_mask, cells)


def _without_class(removed: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the masks without class `removed` [B] (an index), and the cells where they are known, both [B,T,h,w]. No
    cell is known in a frame whose class map does not show which pixels belong to the class.
    """
    sounds = batch.sounding.gather(2, removed[:, None, None].expand(-1, batch.sounding.shape[1], 1))[..., 0]
    alone = sounds & (batch.sounding.sum(-1) == 1)  # then the whole mask belongs to the class
    silent = batch.known & ~sounds  # then no part of the mask does
    vanishing = area_share(batch.class_map == removed[:, None, None, None] + 1, batch.masks)  # ids count from 1
    vanishing = torch.where(alone[..., None, None], batch.masks, vanishing)
    cells = known_cells(batch.class_map, batch.masks)
    shown = cells.flatten(2).all(-1) | (vanishing > 0).flatten(2).any(-1)
    return batch.masks - vanishing, (cells & shown[..., None, None]) | (alone | silent)[..., None, None]
