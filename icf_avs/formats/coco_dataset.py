"""coco.json: a segmentation as a COCO data set, as `pycocotools.coco.COCO` and labelling tools load it.

Format: https://cocodataset.org/#format-data (object detection), masks as run lengths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pycocotools import mask as coco_mask

from icf_avs.atomic_io import write_text
from icf_avs.formats.regions import category_names

if TYPE_CHECKING:
    from icf_avs.segmentation import Segmentation


def coco_dataset(segmentation: Segmentation) -> dict[str, Any]:
    """Images (one a mask, those without anything marked too), annotations and categories.

    With classes an annotation is the part of a mask that is of one class; without, the mask, of the one category
    "sounding". Areas and boxes [x, y, w, h] are in pixels. Beyond the format, annotations have a `score`, so that
    they can be given to COCO.loadRes as they are, and images the `time` of their picture and the interval `start` to
    `end` that their mask stands for, in seconds. `file_name` is the name of the mask's own PNG.
    """
    images, annotations = [], []
    for frame in segmentation.frames:
        images.append(
            {
                "id": frame.index + 1,
                "file_name": f"{frame.index:06d}.png",
                "width": segmentation.video.width,
                "height": segmentation.video.height,
                "time": round(frame.picture_time, 6),
                "start": round(frame.start, 6),
                "end": round(frame.end, 6),
            }
        )
        parts = [(part.category_id, part.score, part.run_lengths) for part in frame.classes]
        for category, score, run_lengths in parts if frame.class_names else [(1, frame.score, frame.run_lengths)]:
            area = int(coco_mask.area(run_lengths))
            if area:
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # COCOeval takes 0 for "no match"
                        "image_id": frame.index + 1,
                        "category_id": category,
                        "segmentation": run_lengths,
                        "area": area,
                        "bbox": coco_mask.toBbox(run_lengths).tolist(),
                        "iscrowd": 0,
                        "score": round(score, 6),
                    }
                )
    names = category_names(segmentation)
    return {
        "info": {"description": f"what sounds in {segmentation.video.path.name}, by ICF-AVS"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": names[index], "supercategory": ""} for index in range(1, len(names))],
    }


def write_coco(segmentation: Segmentation, path: Path) -> None:
    """Write coco_dataset as JSON."""
    write_text(path, json.dumps(coco_dataset(segmentation), indent=1, ensure_ascii=False) + "\n")
