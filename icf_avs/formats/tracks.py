"""tracks.json, and objects over time as `supervision` has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icf_avs.errors import UserError
from icf_avs.formats.regions import category_names, find_tracks, regions_by_mask
from icf_avs.results import write_whole

if TYPE_CHECKING:
    import supervision

    from icf_avs.segmentation import Segmentation

_VERSION = 1


def tracks_document(segmentation: Segmentation) -> dict[str, Any]:
    """The content of tracks.json. Times in seconds, boxes [x, y, w, h] and areas in pixels, masks as COCO RLE.

    Raises UserError without SciPy.
    """
    names, frames = category_names(segmentation), segmentation.frames
    video = segmentation.video
    return {
        "version": _VERSION,
        "video": {"file": video.path.name, "width": video.width, "height": video.height},
        "tracks": [
            {
                "id": track.id,
                "category_id": track.category_id,
                "name": names[track.category_id],
                "start": round(frames[track.regions[0].index].start, 6),
                "end": round(frames[track.regions[-1].index].end, 6),
                "regions": [
                    {
                        "index": region.index,
                        "start": round(frames[region.index].start, 6),
                        "end": round(frames[region.index].end, 6),
                        "bbox": list(region.box),
                        "area": region.area,
                        "score": round(region.score, 6),
                        "segmentation": region.run_lengths,
                    }
                    for region in track.regions
                ],
            }
            for track in find_tracks(segmentation)
        ],
    }


def write_tracks(segmentation: Segmentation, path: Path) -> None:
    """Write tracks_document as JSON. Raises UserError without SciPy."""
    write_whole(path, json.dumps(tracks_document(segmentation), indent=1, ensure_ascii=False) + "\n")


def detections(segmentation: Segmentation) -> Iterator[supervision.Detections]:
    """For each mask in order the objects in it, as `supervision` takes them: drawing, zones, metrics, other formats.

    tracker_id is the id of the Track, class_id the category, with its name in data["class_name"]; mask is
    bool [n, H, W], confidence the score. A mask without objects gives empty detections. Raises UserError if
    `supervision` is not installed.
    """
    try:
        from supervision import Detections, mask_to_xyxy
    except ImportError as error:
        raise UserError("detections need supervision; pip install 'icf-avs[track]'") from error
    names = category_names(segmentation)
    for found in regions_by_mask(segmentation, find_tracks(segmentation)):
        if not found:
            yield Detections.empty()
            continue
        masks = np.stack([region.mask for _, region in found])
        categories = [region.category_id for _, region in found]
        yield Detections(
            xyxy=mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            confidence=np.array([region.score for _, region in found], np.float32),
            class_id=np.array(categories),
            tracker_id=np.array([number for number, _ in found]),
            data={"class_name": np.array([names[category] for category in categories])},
        )
