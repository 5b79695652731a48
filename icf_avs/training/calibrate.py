"""Calibrate a trained model: choose the constant added to all mask logits on validation scenes.

Empty targets of counterfactuals make the model cautious, so a freshly trained model segments too little. The chosen
offset has the best G-mIoU (AVSBench-Robust, see PROTOCOLS): the harmonic mean of the mIoU under the true sound and one
minus the mIoU under a sound that is not in the image.

Open-vocabulary models also get the share of inference/relative_threshold.py: the largest that keeps MIN_SCORE_RATIO of
the best score. Composed scenes are crowded and need no such threshold; natural images do, to keep plain background
unsegmented. The offset is then lowered until the masks of words absent from the image cover at most FALSE_AREA of it.
This test uses words: the tagger may mistake an absent sound for one that is in the image, which no offset corrects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icf_avs.inference.predictor import EncodedFrames, Predictor
from icf_avs.inference.relative_threshold import robust_max
from icf_avs.networks.pooling import grid_means

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from icf_avs.networks.segmentation_model import SegmentationModel
    from icf_avs.types import AudioFeatures, Batch

OFFSETS = torch.linspace(-2.0, 2.0, 33)
RELATIVE_THRESHOLDS = torch.linspace(0.0, 0.5, 11)
MIN_SCORE_RATIO = 0.98
FALSE_AREA = 0.009  # share of an image; it should stay below 0.01 on other scenes
ABSENT = 2  # absent words queried per clip


@dataclass(frozen=True)
class Calibration:
    """The calibrated constants and their scores on validation scenes, at the resolution of the masks (1/4)."""

    offset: float
    share: float
    miou: float
    miou_foreign: float


def calibration_buffers(model: SegmentationModel) -> list[Tensor]:
    """Return the buffers that calibration sets: the offset and, with an open vocabulary, the relative threshold."""
    return [model.offset, *([] if model.relative_threshold is None else [model.relative_threshold])]


def _segmented(logits: Tensor, thresholds: Tensor) -> Iterator[Tensor]:
    """logits [n,h,w] -> bool [n,h,w] for each relative threshold and, within it, for each offset."""
    highest = robust_max(logits)
    for threshold in thresholds:
        for offset in OFFSETS:
            yield logits + offset > threshold * (highest + offset).clamp(min=0)


def frame_ious(logits: Tensor, masks: Tensor, thresholds: Tensor = RELATIVE_THRESHOLDS[:1]) -> Tensor:
    """Return the IoU of each frame for each relative threshold and offset: logits, masks [n,h,w] -> [n,
    len(thresholds), len(OFFSETS)]. Masks must not be empty.
    """
    truth = masks > 0.5
    ious = [
        (marked & truth).sum((1, 2)) / (marked | truth).sum((1, 2)).clamp(min=1)
        for marked in _segmented(logits, thresholds)
    ]
    return torch.stack(ious, dim=1).unflatten(1, (len(thresholds), len(OFFSETS)))


def segmented_areas(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Return the segmented share of each frame: logits [n,h,w] -> [n, len(thresholds), len(OFFSETS)]."""
    areas = [marked.float().mean((1, 2)) for marked in _segmented(logits, thresholds)]
    return torch.stack(areas, dim=1).unflatten(1, (len(thresholds), len(OFFSETS)))


def absent_words(batch: Batch, generator: torch.Generator) -> Tensor:
    """Draw a word per clip that cannot mean anything in its frames, as one-hot tags [B,T,C]."""
    words = torch.multinomial((~batch.onscreen).float().cpu(), 1, generator=generator)
    tags = torch.zeros(batch.onscreen.shape).scatter_(1, words, 1.0)
    return tags[:, None].expand(-1, batch.valid.shape[1], -1).to(batch.masks)


@torch.no_grad()
def calibrate(model: SegmentationModel, batches: Iterable[Batch]) -> Calibration:
    """Set the constants by validation batches of a few clips each. Foreign sounds come from other clips of the batch.

    If no frame sounds or no sound is off-screen (possible with few scenes), that mIoU counts as 0 at every offset.
    """
    model.eval()
    predictor, network, buffers = Predictor(model), model.network, calibration_buffers(model)
    for buffer in buffers:
        buffer.zero_()
    thresholds = RELATIVE_THRESHOLDS[: None if len(buffers) > 1 else 1]
    true_ious, foreign_ious, areas, generator = [], [], [], torch.Generator().manual_seed(0)
    for batch in (batch.to(model.device) for batch in batches):
        shown = batch.labelled & batch.valid & ((batch.masks > 0.5).sum((-2, -1)) > 0)

        scales, audio = predictor.encode(batch.frames, batch.visual), network.encode_audio(batch.sound, batch.has_tags)

        def decode(audio: AudioFeatures, batch: Batch = batch, scales: list[EncodedFrames] = scales) -> Tensor:
            return grid_means(predictor.segment(scales, audio, batch.valid).logits, batch.masks.shape[-2:])

        logits = decode(audio)
        true_ious.append(frame_ious(logits[shown], batch.masks[shown], thresholds))
        foreign_sounding = batch.sounding.any(1).roll(1, 0)
        absent = shown & (foreign_sounding.any(1) & ~(foreign_sounding & batch.onscreen).any(1))[:, None]
        foreign_logits = decode(audio.map(lambda x: x.roll(1, 0)))
        foreign_ious.append(frame_ious(foreign_logits[absent], batch.masks[absent], thresholds))
        for _ in range(ABSENT if model.relative_threshold is not None else 0):
            words = network.encode_audio(absent_words(batch, generator), tags=True)
            areas.append(segmented_areas(decode(words)[batch.valid], thresholds))
    miou, miou_foreign = (ious.sum(0) / max(1, len(ious)) for ious in map(torch.cat, (true_ious, foreign_ious)))
    scores = 2 * miou * (1 - miou_foreign) / (miou + 1 - miou_foreign).clamp(min=1e-6)
    offset = int(scores[0].argmax())
    by_threshold = scores[:, offset]
    good_enough = by_threshold >= MIN_SCORE_RATIO * by_threshold.max()
    threshold = int(good_enough.nonzero().max()) if by_threshold.max() > 0 else 0
    if areas:
        false = torch.cat(areas)[:, threshold]
        fits = false.sum(0) <= FALSE_AREA * len(false)  # if an offset is too large, so is every larger one
        offset = min(offset, max(int(fits.sum()) - 1, 0))
    values = OFFSETS[offset], thresholds[threshold]
    for buffer, value in zip(buffers, values, strict=False):  # most models have no relative threshold
        buffer.fill_(value)
    return Calibration(*map(float, (*values, miou[threshold, offset], miou_foreign[threshold, offset])))
