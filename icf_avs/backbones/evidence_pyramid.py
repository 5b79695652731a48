"""The visual encoder "efficientnet-lite0-evidence": what an open vocabulary is searched for in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.backbones.class_evidence import ClassEvidence
from icf_avs.backbones.efficientnet_lite import EfficientNetLite0
from icf_avs.backbones.things import GRID, THINGS, ThingSegmenter


class PyramidWithEvidence(nn.Module):
    """A frozen encoder's levels and two more: frames uint8 [N,H,W,3] -> levels [N,c,h,w], of which the fifth is the
    evidence for ImageNet's classes, and the sixth the segmenter's shares of things. Without a segmenter, these are 0.
    """

    strides, channels = EfficientNetLite0.strides, EfficientNetLite0.channels  # of the four levels before

    def __init__(self, network: EfficientNetLite0, segmenter: ThingSegmenter | None) -> None:
        super().__init__()
        self.network, self.evidence, self.segmenter = network, ClassEvidence(network), segmenter

    def forward(self, frames: Tensor, things: Tensor | None = None) -> list[Tensor]:
        """things: the last level, where it is known of the same pictures at another size."""
        pyramid = self.network(frames)
        return [*pyramid, self.evidence(pyramid[-1]), self.things(frames) if things is None else things]

    def things(self, frames: Tensor) -> Tensor:
        """frames uint8 [N,H,W,3] -> shares of things [N,20,GRID,GRID]."""
        if self.segmenter is None:
            return torch.zeros(len(frames), THINGS, GRID, GRID, device=frames.device)
        return self.segmenter(frames)
