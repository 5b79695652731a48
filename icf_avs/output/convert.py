"""Convert a result folder of `icf segment` to formats of other tools, written into the same folder.

coco.json with frames/, for pycocotools and labelling tools; objects/, indexed PNGs in the convention of DAVIS 2017 and
YouTube-VOS (0 is background, an object keeps its index); tracks.json, objects over time; sounds.srt, subtitles.
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
from icf_avs.output.instance_tracking import Region, category_names, find_tracks, parts_of
from icf_avs.output.result_file import read_segmentation
from icf_avs.output.subtitles import srt_text

if TYPE_CHECKING:
    from icf_avs.results import Segmentation

_TRACKS_VERSION = 1


def convert(folder: str | Path, to: str) -> Path:
    """Write one format, "coco", "palette", "tracks" or "srt", into a result folder of `icf segment`; return the path of
    the written file or folder.

    An earlier version is replaced, completely or not at all. Raises UserError if the folder is no result, the format
    cannot represent it, or a library is missing; ValueError for an unknown format.
    """
    if to not in WRITERS:
        raise ValueError(f"no format {to!r}; there are {', '.join(WRITERS)}")
    folder, (name, write) = Path(folder), WRITERS[to]
    if folder.is_dir():
        check_folder(folder / name, "FOLDER") if to == "palette" else check_file(folder / name, "FOLDER")
    write(read_segmentation(folder), folder / name)
    return folder / name


def coco_dataset(segmentation: Segmentation) -> dict[str, Any]:
    """Return a COCO data set (object detection, https://cocodataset.org/#format-data) for `pycocotools.coco.COCO`.

    Images (one per mask, including empty masks), annotations and categories. An annotation is the part of a mask of one
    class; without classes, it is the whole mask, in the single category "sounding". Areas and boxes [x, y, w, h] are in
    pixels. Extensions: annotations have a `score`, so that COCO.loadRes accepts them; images have the `time` of their
    frame and the interval `start` to `end` of their mask, in seconds.
    """
    video, names, images, annotations = segmentation.video, category_names(segmentation), [], []
    for frame in segmentation.frames:
        images.append({
            "id": frame.index + 1, "file_name": f"{frame.index:06d}.jpg", "width": video.width, "height": video.height,
            "time": round(frame.picture_time, 6), "start": round(frame.start, 6), "end": round(frame.end, 6),
        })  # fmt: skip
        for category, score, run_lengths in parts_of(frame):
            if area := int(coco_mask.area(run_lengths)):
                annotations.append({
                    "id": len(annotations) + 1,  # COCOeval uses 0 for "no match"
                    "image_id": frame.index + 1, "category_id": category, "segmentation": run_lengths, "area": area,
                    "bbox": coco_mask.toBbox(run_lengths).tolist(), "iscrowd": 0, "score": round(score, 6),
                })  # fmt: skip
    return {
        "info": {"description": f"what sounds in {video.path.name}, by ICF-AVS"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": names[index], "supercategory": ""} for index in range(1, len(names))],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _write_coco(segmentation: Segmentation, path: Path) -> None:
    """Write coco_dataset and the frames of the masks, which labelling tools need. If the video has moved or changed,
    log that frames are omitted.
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
    _write_json(path, coco_dataset(segmentation))


def object_ids(segmentation: Segmentation) -> Iterator[np.ndarray]:
    """Yield for each mask the Track id of each pixel, uint8 [H, W], 0 for none.

    Raises UserError if there are more objects than indices, or without SciPy.
    """
    tracks, video = find_tracks(segmentation), segmentation.video
    if len(tracks) >= COLOURS:
        raise UserError(
            f"{video.path.name}: has {len(tracks)} objects and an indexed PNG only {COLOURS - 1} for them; convert it "
            "to tracks instead"
        )
    regions_of_mask: list[list[tuple[int, Region]]] = [[] for _ in segmentation.frames]
    for track in tracks:
        for region in track.regions:
            regions_of_mask[region.index].append((track.id, region))
    for regions in regions_of_mask:
        ids = np.zeros((video.height, video.width), np.uint8)
        for number, region in regions:
            ids[region.mask] = number
        yield ids


def _write_palette(segmentation: Segmentation, folder: Path) -> None:
    with replaced_folder(folder) as new:
        for index, ids in enumerate(object_ids(segmentation)):
            indexed(ids).save(new / f"{index:06d}.png")


def tracks_document(segmentation: Segmentation) -> dict[str, Any]:
    """Return the content of tracks.json. Times in seconds, boxes [x, y, w, h] and areas in pixels, masks as COCO RLE.

    Raises UserError without SciPy.
    """
    names, frames, video = category_names(segmentation), segmentation.frames, segmentation.video

    def interval(first: int, last: int) -> dict[str, float]:
        return {"start": round(frames[first].start, 6), "end": round(frames[last].end, 6)}

    return {
        "version": _TRACKS_VERSION,
        "video": {"file": video.path.name, "width": video.width, "height": video.height},
        "tracks": [
            {
                "id": track.id, "category_id": track.category_id, "name": names[track.category_id],
                **interval(track.regions[0].index, track.regions[-1].index),
                "regions": [
                    {
                        "index": region.index, **interval(region.index, region.index), "bbox": list(region.box),
                        "area": region.area, "score": round(region.score, 6), "segmentation": region.run_lengths,
                    }
                    for region in track.regions
                ],
            }
            for track in find_tracks(segmentation)
        ],
    }  # fmt: skip


WRITERS = {
    "coco": ("coco.json", _write_coco),
    "palette": ("objects", _write_palette),
    "tracks": ("tracks.json", lambda segmentation, path: _write_json(path, tracks_document(segmentation))),
    "srt": ("sounds.srt", lambda segmentation, path: write_text(path, srt_text(segmentation.frames))),
}
