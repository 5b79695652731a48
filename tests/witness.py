"""A predictor with predictable masks, for tests of media."""

from __future__ import annotations

import torch

from icf_avs.mask_predictor import MaskPredictor
from icf_avs.types import ClipSpec, Prediction


class Witness(MaskPredictor):
    """Segments bright pixels if there is sound, and records its inputs. `begin` is called before each clip."""

    classes = ("noise", "square", "silence")

    def __init__(self, **spec):
        self.spec = ClipSpec(**{"image_size": 32} | spec)
        self.frames, self.waveforms, self.counts, self.begin = [], [], [], lambda: None

    def predict(self, frames, waves):
        assert frames.dtype == torch.uint8 and frames.shape[1:] == (self.spec.image_size, self.spec.image_size, 3)
        assert waves.dtype == torch.float32 and waves.shape == (len(frames), self.spec.window)
        assert torch.isfinite(waves).all()
        self.begin()
        self.counts.append(len(frames))
        self.frames.extend(frames.numpy().copy())
        self.waveforms.extend(waves.numpy().copy())
        loud = (waves.abs().amax(1) > 0.05).float()
        logits = torch.where(loud[:, None, None] > 0, (frames.float().mean(-1) - 128) / 20, -9.0)
        return Prediction(logits, loud[:, None] * torch.tensor([0.5, 0.9, 0.1]), self.classes)
