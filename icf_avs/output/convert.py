"""A finished folder of `icf segment` in the formats that other tools read, each written into the same folder.

coco.json with frames/, for pycocotools and labelling tools; objects/, indexed PNG in the convention of DAVIS 2017 and
YouTube-VOS: 0 is background, and an object keeps its index; tracks.json, objects over time; sounds.srt, subtitles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from icf_avs.atomic_io import check_file, check_folder, replaced_folder, write_text
from icf_avs.console import note
from icf_avs.errors import UserError
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.class_overlay import COLOURS, indexed
from icf_avs.output.instance_tracking import category_names, find_tracks, regions_by_mask
from icf_avs.output.result_file import read_segmentation
from icf_avs.output.subtitles import write_srt

if TYPE_CHECKING:
    from icf_avs.results import Segmentation

_TRACKS_VERSION = 1


def convert(folder: str | Path, to: str) -> Path:
    """Write one format, "coco", "palette", "tracks" or "srt", into a folder that `icf segment` wrote; the path of what
    was written.

    A file of an earlier run is replaced, complete or not at all. Raises UserError if the folder is no result, the
    format cannot hold it, or a library is missing; ValueError for an unknown format.
    """
    if to not in WRITERS:
        raise ValueError(f"no format {to!r}; there are {', '.join(WRITERS)}")
    folder, (name, write) = Path(folder), WRITERS[to]
    if folder.is_dir():
        check_folder(folder / name, "FOLDER") if to == "palette" else check_file(folder / name, "FOLDER")
    write(read_segmentation(folder), folder / name)
    return folder / name


def coco_dataset(segmentation: Segmentation) -> dict[str, Any]:
    """A COCO data set (object detection, https://cocodataset.org/#format-data), as `pycocotools.coco.COCO` loads it.

    Images (one a mask, those without anything segmented too), annotations and categories.

    With classes an annotation is the part of a mask that is of one class; without, the mask, of the one category
    "sounding". Areas and boxes [x, y, w, h] are in pixels. Beyond the format, annotations have a `score`, so that
    they can be given to COCO.loadRes as they are, and images the `time` of their frame and the interval `start` to
    `end` that their mask stands for, in seconds. `file_name` is that of the frame in frames/.
    """
    images, annotations = [], []
    for frame in segmentation.frames:
        images.append(
            {
                "id": frame.index + 1,
                "file_name": f"{frame.index:06d}.jpg",
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
    """Write coco_dataset as JSON, and beside it the frames that the masks are of, as labelling tools want them. Where
    the video has moved or changed, a note says that there are no frames.
    """
    try:
        info = probe(segmentation.video.unchanged())
    except UserError as error:
        note(f"{path}: without frames/, as {error}")
    else:
        times = (segmentation.spec.frame_time(index) for index in range(len(segmentation)))
        with replaced_folder(path.parent / "frames") as new:
            for index, (_, image) in enumerate(read_frames(info, times)):
                Image.fromarray(image).save(new / f"{index:06d}.jpg", quality=95)
    write_text(path, json.dumps(coco_dataset(segmentation), indent=1, ensure_ascii=False) + "\n")


def object_ids(segmentation: Segmentation) -> Iterator[np.ndarray]:
    """uint8 [H, W] for each mask: the id of the Track that a pixel is of, else 0.

    Raises UserError for more objects than there are indices, and without SciPy.
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


def tracks_document(segmentation: Segmentation) -> dict[str, Any]:
    """The content of tracks.json. Times in seconds, boxes [x, y, w, h] and areas in pixels, masks as COCO RLE.

    Raises UserError without SciPy.
    """
    names, frames = category_names(segmentation), segmentation.frames
    video = segmentation.video
    return {
        "version": _TRACKS_VERSION,
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


WRITERS = {
    "coco": ("coco.json", write_coco),
    "palette": ("objects", write_palette),
    "tracks": ("tracks.json", write_tracks),
    "srt": ("sounds.srt", write_srt),
}
