"""From a finished folder to the formats, each written into the same folder."""

from __future__ import annotations

from pathlib import Path

from icf_avs.formats.coco_dataset import write_coco
from icf_avs.formats.palette_masks import write_palette
from icf_avs.formats.subtitles import write_srt
from icf_avs.formats.tracks import write_tracks
from icf_avs.output.result_file import read_segmentation
from icf_avs.output.writable import check_file, check_folder

WRITERS = {
    "coco": ("coco.json", write_coco),
    "palette": ("objects", write_palette),
    "tracks": ("tracks.json", write_tracks),
    "srt": ("sounds.srt", write_srt),
}


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
