"""The visual encoder "efficientnet-lite0-evidence", for an open vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.encoders.dense_classifier import DenseClassifier
from icf_avs.encoders.efficientnet_lite import EfficientNetLite0
from icf_avs.encoders.voc_segmenter import GRID, VOC_CLASSES, WITHOUT_SEGMENTER, VocSegmenter
from icf_avs.types import Missing, VisualFeatures

_LARGE = 300  # pixels of a side: the first maps of one larger image leave a processor's cache as it is
_SEGMENTED = 2  # images in a batch of the segmenter: more gain nothing


class OpenVocabEncoder(nn.Module):
    """A frozen encoder, frames uint8 [N,H,W,3] -> levels [N,c,h,w], and `evidence` beside it. On a CPU it encodes as
    many frames at once as is fastest.
    """

    strides, channels = EfficientNetLite0.strides, EfficientNetLite0.channels

    def __init__(self, network: EfficientNetLite0, segmenter: VocSegmenter | None) -> None:
        super().__init__()
        self.network, self.classifier, self.segmenter = network, DenseClassifier(network), segmenter

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What it does without."""
        return () if self.segmenter is not None else (WITHOUT_SEGMENTER,)

    def evidence(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """The levels, the scores of ImageNet's classes, and the segmenter's probabilities of objects: 0 without a
        segmenter. object_probs: of the same frames at another size, where they are known.
        """
        pyramid = self(frames)
        found = self.segment_objects(frames) if object_probs is None else object_probs
        return VisualFeatures(pyramid, self.classifier(pyramid[-1]), found)

    def segment_objects(self, frames: Tensor) -> Tensor:
        """frames uint8 [N,H,W,3] -> probabilities of objects [N,20,GRID,GRID]."""
        if self.segmenter is None:
            return torch.zeros(len(frames), VOC_CLASSES, GRID, GRID, device=frames.device)
        if frames.device.type != "cpu":
            return self.segmenter(frames)
        return torch.cat([self.segmenter(some) for some in frames.split(_SEGMENTED)])

    def forward(self, frames: Tensor) -> list[Tensor]:
        if frames.device.type != "cpu" or frames.shape[1] <= _LARGE:
            return self.network(frames)
        return [torch.cat(level) for level in zip(*map(self.network, frames.split(1)), strict=True)]
