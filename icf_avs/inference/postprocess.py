"""What mask logits pass between a network and a mask: `STEPS`, in the order in which they act.

Each takes and returns the masks of one clip batch at every scale, the largest first. A step whose input is absent does
nothing, so networks without an open vocabulary have the calibrated offset alone, and that is all that an exported graph
holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from icf_avs.inference.guided_filter import guided_filter
from icf_avs.inference.multiscale import merge_scales
from icf_avs.inference.relative_threshold import subtract_max_fraction
from icf_avs.networks.open_vocabulary_parts.segmenter_prior import fuse_segmenter
from icf_avs.networks.segmentation_model import SegmentationModel


@dataclass(frozen=True)
class ScaleMasks:
    """logits [B,T,h,w]; frames uint8 [B,T,S,S,3], whose colours the masks are to follow, or None; segmenter: see
    `NetworkOutput`.
    """

    logits: Tensor
    frames: Tensor | None = None
    segmenter: Tensor | None = None


Scales = list[ScaleMasks]


def segmenter_prior(scales: Scales, model: SegmentationModel) -> Scales:
    """The segmenter's word counts beside the decoder's (networks/open_vocabulary_parts/segmenter_prior.py)."""
    return [
        scale if scale.segmenter is None else replace(scale, logits=_by_frame(fuse_segmenter, scale, scale.segmenter))
        for scale in scales
    ]


def refine_edges(scales: Scales, model: SegmentationModel) -> Scales:
    """Masks end where colours do, at twice the resolution (guided_filter.py)."""
    return [
        scale if scale.frames is None else replace(scale, logits=_by_frame(guided_filter, scale, scale.frames))
        for scale in scales
    ]


def calibrated_offset(scales: Scales, model: SegmentationModel) -> Scales:
    """The constant of training/calibrate.py."""
    return [replace(scale, logits=scale.logits + model.offset) for scale in scales]


def multiscale(scales: Scales, model: SegmentationModel) -> Scales:
    """One mask of the frames and of a smaller copy (multiscale.py)."""
    first, *smaller = scales
    for scale in smaller:
        first = replace(first, logits=merge_scales(first.logits, scale.logits))
    return [first]


def relative_threshold(scales: Scales, model: SegmentationModel) -> Scales:
    """What is much less sure than the surest place is not segmented (relative_threshold.py)."""
    share = model.relative_threshold
    return (
        scales
        if share is None
        else [replace(scale, logits=subtract_max_fraction(scale.logits, share)) for scale in scales]
    )


Step = Callable[[Scales, SegmentationModel], Scales]
STEPS: tuple[Step, ...] = (segmenter_prior, refine_edges, calibrated_offset, multiscale, relative_threshold)


def postprocess(scales: Scales, model: SegmentationModel) -> Tensor:
    """Mask logits [B,T,h,w] of all scales -> those that say what is segmented: above 0."""
    for step in STEPS:
        scales = step(scales, model)
    return scales[0].logits


def _by_frame(change: Callable[[Tensor, Tensor], Tensor], scale: ScaleMasks, given: Tensor) -> Tensor:
    """change, of logits [N,h,w] and what is given of each frame [N,...], for clips [B,T,...]."""
    return change(scale.logits.flatten(0, 1), given.flatten(0, 1)).unflatten(0, scale.logits.shape[:2])
