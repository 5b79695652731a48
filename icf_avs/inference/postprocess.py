"""Post-processing of mask logits: the functions in `STEPS`, in order.

Each step takes and returns the masks of one batch of clips at all scales, largest first. A step whose input is absent
does nothing: networks without an open vocabulary, and their exported graphs, use only the calibrated offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from icf_avs.inference.guided_filter import guided_filter
from icf_avs.inference.multiscale import merge_scales
from icf_avs.inference.relative_threshold import subtract_max_fraction
from icf_avs.networks.evidence_prior import fuse_segmenter
from icf_avs.networks.segmentation_model import SegmentationModel


@dataclass(frozen=True)
class ScaleMasks:
    """Masks at one scale. logits: [B,T,h,w]; frames: uint8 [B,T,S,S,3] for edge refinement, or None; segmenter: see
    `NetworkOutput`.
    """

    logits: Tensor
    frames: Tensor | None = None
    segmenter: Tensor | None = None


Scales = list[ScaleMasks]


def segmenter_prior(scales: Scales, model: SegmentationModel) -> Scales:
    """Fuse the decoder's logits with the object segmenter (networks/evidence_prior.py)."""
    return [
        scale
        if scale.segmenter is None
        else replace(scale, logits=_apply_per_frame(fuse_segmenter, scale, scale.segmenter))
        for scale in scales
    ]


def refine_edges(scales: Scales, model: SegmentationModel) -> Scales:
    """Align mask edges with colour edges, at twice the resolution (guided_filter.py)."""
    return [
        scale if scale.frames is None else replace(scale, logits=_apply_per_frame(guided_filter, scale, scale.frames))
        for scale in scales
    ]


def calibrated_offset(scales: Scales, model: SegmentationModel) -> Scales:
    """Add the constant that training/calibrate.py chose."""
    return [replace(scale, logits=scale.logits + model.offset) for scale in scales]


def multiscale(scales: Scales, model: SegmentationModel) -> Scales:
    """Merge the masks of all scales into one (multiscale.py)."""
    first, *smaller = scales
    for scale in smaller:
        first = replace(first, logits=merge_scales(first.logits, scale.logits))
    return [first]


def relative_threshold(scales: Scales, model: SegmentationModel) -> Scales:
    """Suppress logits far below the maximum of the frame (relative_threshold.py)."""
    share = model.relative_threshold
    return (
        scales
        if share is None
        else [replace(scale, logits=subtract_max_fraction(scale.logits, share)) for scale in scales]
    )


Step = Callable[[Scales, SegmentationModel], Scales]
STEPS: tuple[Step, ...] = (segmenter_prior, refine_edges, calibrated_offset, multiscale, relative_threshold)


def postprocess(scales: Scales, model: SegmentationModel) -> Tensor:
    """Apply all steps. Return final mask logits [B,T,h,w]: a pixel is segmented where they are above 0."""
    for step in STEPS:
        scales = step(scales, model)
    return scales[0].logits


def _apply_per_frame(fn: Callable[[Tensor, Tensor], Tensor], scale: ScaleMasks, per_frame_input: Tensor) -> Tensor:
    """Apply a function of logits [N,h,w] and per-frame inputs [N,...] to clips [B,T,...]."""
    return fn(scale.logits.flatten(0, 1), per_frame_input.flatten(0, 1)).unflatten(0, scale.logits.shape[:2])
