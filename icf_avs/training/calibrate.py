"""Calibration: the constant added to all mask logits, chosen on validation scenes after training.

The blank targets of counterfactuals teach caution, so a freshly trained model marks too little. The offset is the one
with the best G-mIoU (AVSBench-Robust, see PROTOCOLS): the harmonic mean of mIoU with the true sound and one minus the
mIoU that is left under a sound which is not in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from icf_avs.contracts import Batch
    from icf_avs.model.icf import ICF

OFFSETS = torch.linspace(-2.0, 2.0, 33)


@dataclass(frozen=True)
class Calibration:
    """The chosen offset and the scores on validation scenes it was chosen by (at the masks' own 1/4 resolution)."""

    offset: float
    miou: float
    miou_foreign: float


def frame_ious(logits: Tensor, masks: Tensor) -> Tensor:
    """logits, masks [n,h,w] -> [n, len(OFFSETS)], IoU of each frame with each offset added; masks must not be empty."""
    truth = masks > 0.5
    ious = []
    for offset in OFFSETS:
        marked = logits + offset > 0
        ious.append((marked & truth).sum((1, 2)) / (marked | truth).sum((1, 2)).clamp(min=1))
    return torch.stack(ious, dim=1)


@torch.no_grad()
def calibrate(model: ICF, batches: Iterable[Batch]) -> Calibration:
    """Set model.offset by validation batches of a few clips each, whose sounds are tried on each other's pictures.

    Where no frame sounds or no sound is off-screen (a handful of scenes), that score counts as 0 at every offset.
    """
    model.eval()
    model.offset.zero_()
    own, foreign = [], []
    for batch in (batch.to(model.offset.device) for batch in batches):
        shown = batch.labelled & batch.valid & ((batch.masks > 0.5).sum((-2, -1)) > 0)
        own.append(frame_ious(model(batch.pyramid, batch.waves, batch.valid).logits[shown], batch.masks[shown]))
        other = batch.sounding.any(1).roll(1, 0)
        absent = shown & (other.any(1) & ~(other & batch.onscreen).any(1))[:, None]
        logits = model(batch.pyramid, batch.waves.roll(1, 0), batch.valid).logits
        foreign.append(frame_ious(logits[absent], batch.masks[absent]))
    good, left = (torch.cat(ious).sum(0) / max(1, len(torch.cat(ious))) for ious in (own, foreign))
    best = int((2 * good * (1 - left) / (good + 1 - left).clamp(min=1e-6)).argmax())
    model.offset.fill_(OFFSETS[best])
    return Calibration(float(OFFSETS[best]), float(good[best]), float(left[best]))
