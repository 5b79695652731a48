"""tracks.json: objects over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icf_avs.atomic_io import write_text
from icf_avs.formats.regions import category_names, find_tracks

if TYPE_CHECKING:
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
    write_text(path, json.dumps(tracks_document(segmentation), indent=1, ensure_ascii=False) + "\n")
