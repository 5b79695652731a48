"""objects/000000.png ...: the index of each pixel's object, in the palette of DAVIS (which is that of PASCAL VOC).

The convention of DAVIS 2017 and YouTube-VOS, which tools for video object segmentation read: an indexed PNG a mask, 0
is background, and an object keeps its index. The classes of a semantic result are already such files, in classes/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icf_avs.atomic_io import replaced_folder
from icf_avs.errors import UserError
from icf_avs.formats.regions import find_tracks, regions_by_mask
from icf_avs.output.class_overlay import COLOURS, indexed

if TYPE_CHECKING:
    from icf_avs.segmentation import Segmentation


def object_ids(segmentation: Segmentation) -> Iterator[np.ndarray]:
    """uint8 [H, W] for each mask: the id of the Track that a pixel is of, else 0.

    Raises UserError for more objects than an index can tell apart, and without SciPy.
    """
    tracks = find_tracks(segmentation)
    if len(tracks) >= COLOURS:
        raise UserError(
            f"{segmentation.video.path.name}: has {len(tracks)} objects and an indexed PNG only {COLOURS - 1} for "
            "them; convert it to tracks instead"
        )
    for found in regions_by_mask(segmentation, tracks):
        ids = np.zeros((segmentation.video.height, segmentation.video.width), np.uint8)
        for number, region in found:
            ids[region.mask] = number
        yield ids


def write_palette(segmentation: Segmentation, folder: Path) -> None:
    """Write object_ids as indexed PNG files; `folder` is replaced. Raises UserError as object_ids does."""
    with replaced_folder(folder) as new:
        for index, ids in enumerate(object_ids(segmentation)):
            indexed(ids).save(new / f"{index:06d}.png")
