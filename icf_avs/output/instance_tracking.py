"""Link connected regions of masks over time to object tracks.

Regions are matched to the last regions of tracks of the same class by mask intersection over union, one to one
(Hungarian method). This is SORT (Bewley et al., ICIP 2016) without its motion model: masks may be a second apart, too
long for a constant-velocity assumption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_mask

from icf_avs.errors import UserError
from icf_avs.mask_rle import decode, encode

if TYPE_CHECKING:
    from icf_avs.results import FrameMask, Segmentation

MIN_AREA = 0.0005  # share of the frame; smaller regions are discarded as noise
MIN_IOU = 0.2  # of consecutive regions of an object
MAX_GAP = 1.0  # seconds that an object may be missing, at any mask rate; at least one mask


@dataclass(frozen=True)
class Region:
    """One object in one mask."""

    index: int  # of the mask
    category_id: int  # 1 is the first class; 1 without classes
    score: float  # of the mask, or of the class mask, that contains the region
    area: int  # pixels
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    run_lengths: dict[str, Any]  # COCO RLE

    @property
    def mask(self) -> np.ndarray:
        """The region as a mask, bool [H, W], at the size of the video."""
        return decode(self.run_lengths)


@dataclass(frozen=True)
class Track:
    """One object over time: its regions in order, at most one per mask."""

    id: int  # 1, 2, ... in order of appearance
    category_id: int
    regions: tuple[Region, ...]


def category_names(segmentation: Segmentation) -> tuple[str, ...]:
    """Return names by category id, background first; without classes, the only other category is "sounding"."""
    return segmentation.class_names or ("background", "sounding")


def parts_of(frame: FrameMask) -> list[tuple[int, float, dict[str, Any]]]:
    """Return category id, score and run lengths of each class mask; without classes, of the mask."""
    if frame.class_names:
        return [(part.category_id, part.score, part.run_lengths) for part in frame.classes]
    return [(1, frame.score, frame.run_lengths)]


def regions_of(frame: FrameMask) -> Iterator[Region]:
    """Yield the connected regions (8 neighbours) of a mask, or of each class mask, of at least MIN_AREA.

    Raises UserError without SciPy.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise UserError("objects need SciPy, which is not installed; pip install 'icf-avs[track]'") from error
    for category, score, run_lengths in parts_of(frame):
        labels, _ = ndimage.label(decode(run_lengths), structure=np.ones((3, 3)))
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            mask = np.zeros(labels.shape, bool)
            mask[rows, columns] = labels[rows, columns] == label
            area = int(mask[rows, columns].sum())
            if area >= MIN_AREA * mask.size:
                box = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
                yield Region(frame.index, category, score, area, box, encode(mask))


def find_tracks(segmentation: Segmentation) -> tuple[Track, ...]:
    """Return the object tracks in order of appearance; those that appear in the same mask are sorted, largest first.

    Raises UserError without SciPy.
    """
    max_index_gap = max(1, round(MAX_GAP * segmentation.spec.fps)) + 1  # of consecutive regions
    tracks: list[list[Region]] = []
    for frame in segmentation.frames:
        regions = sorted(regions_of(frame), key=lambda region: -region.area)
        open_tracks = [track for track in tracks if frame.index - track[-1].index <= max_index_gap]
        links = _links([track[-1] for track in open_tracks], regions)
        for number, region in enumerate(regions):
            if number in links:
                open_tracks[links[number]].append(region)
            else:
                tracks.append([region])
    return tuple(Track(number, track[0].category_id, tuple(track)) for number, track in enumerate(tracks, 1))


def _links(old: list[Region], new: list[Region]) -> dict[int, int]:
    """Match new regions to old ones; return old index by new index, without unmatched ones."""
    from scipy.optimize import linear_sum_assignment

    if not old or not new:
        return {}
    overlap = coco_mask.iou([r.run_lengths for r in new], [r.run_lengths for r in old], [0] * len(old))
    overlap[np.not_equal.outer([r.category_id for r in new], [r.category_id for r in old])] = 0
    overlap[overlap < MIN_IOU] = 0  # before matching, so that invalid pairs do not block valid ones
    pairs = zip(*(side.tolist() for side in linear_sum_assignment(overlap, maximize=True)), strict=True)
    return {i: j for i, j in pairs if overlap[i, j]}
