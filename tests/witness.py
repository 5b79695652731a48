"""A predictor with predictable masks, for tests of media."""

from __future__ import annotations

import torch

from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec, Prediction


class Witness(MaskPredictor):
    """Segments bright pixels if there is sound, and records its inputs for each mask."""

    classes = ("noise",)

    def __init__(self, **spec):
        self.spec = ClipSpec(image_size=32, **spec)
        self.frames, self.waveforms = [], []

    def predict(self, frames, waves):
        assert torch.isfinite(waves).all()
        self.frames.extend(frames.numpy().copy())
        self.waveforms.extend(waves.numpy().copy())
        loud = (waves.abs().amax(1) > 0.05).float()
        bright = frames.float().mean(-1)
        return Prediction(torch.where(loud[:, None, None] > 0, (bright - 128) / 20, -9.0), loud[:, None], self.classes)
