"""The visual encoder "efficientnet-lite0-evidence": what an open vocabulary is searched for in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.backbones.class_evidence import ClassEvidence
from icf_avs.backbones.efficientnet_lite import EfficientNetLite0
from icf_avs.backbones.things import GRID, THINGS, WITHOUT_SEGMENTER, ThingSegmenter
from icf_avs.contracts import Missing

_LARGE = 300  # pixels of a side: the first maps of one larger picture leave a processor's cache as it is
_SEGMENTED = 2  # pictures that the segmenter sees at once: more gain nothing


class PyramidWithEvidence(nn.Module):
    """A frozen encoder's levels and two more: frames uint8 [N,H,W,3] -> levels [N,c,h,w], of which the fifth is the
    evidence for ImageNet's classes, and the sixth the segmenter's shares of things. Without a segmenter, these are 0.
    """

    takes_turns = True  # on a CPU it sees as many pictures at once as is fastest
    strides, channels = EfficientNetLite0.strides, EfficientNetLite0.channels  # of the four levels before

    def __init__(self, network: EfficientNetLite0, segmenter: ThingSegmenter | None) -> None:
        super().__init__()
        self.network, self.evidence, self.segmenter = network, ClassEvidence(network), segmenter

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What it does without."""
        return () if self.segmenter is not None else (WITHOUT_SEGMENTER,)

    def forward(self, frames: Tensor, things: Tensor | None = None) -> list[Tensor]:
        """things: the last level, where it is known of the same pictures at another size."""
        pyramid = self._levels(frames)
        return [*pyramid, self.evidence(pyramid[-1]), self.things(frames) if things is None else things]

    def things(self, frames: Tensor) -> Tensor:
        """frames uint8 [N,H,W,3] -> shares of things [N,20,GRID,GRID]."""
        if self.segmenter is None:
            return torch.zeros(len(frames), THINGS, GRID, GRID, device=frames.device)
        if frames.device.type != "cpu":
            return self.segmenter(frames)
        return torch.cat([self.segmenter(some) for some in frames.split(_SEGMENTED)])

    def _levels(self, frames: Tensor) -> list[Tensor]:
        """The encoder's own."""
        if frames.device.type != "cpu" or frames.shape[1] <= _LARGE:
            return self.network(frames)
        return [torch.cat(level) for level in zip(*map(self.network, frames.split(1)), strict=True)]
