"""`icf convert`: from a finished folder to the formats, each written into the same folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from icf_avs.data.media import MediaInfo, probe
from icf_avs.errors import UserError
from icf_avs.formats.alpha import PRORES, VP9, write_alpha
from icf_avs.formats.coco_dataset import write_coco
from icf_avs.formats.palette_masks import write_palette
from icf_avs.formats.saved import read_segmentation
from icf_avs.formats.subtitles import write_srt
from icf_avs.formats.tracks import write_tracks
from icf_avs.output.writable import check_file, check_folder

if TYPE_CHECKING:
    from icf_avs.segmentation import Segmentation

_WRITERS = {
    "coco": ("coco.json", write_coco),
    "palette": ("objects", write_palette),
    "tracks": ("tracks.json", write_tracks),
    "srt": ("sounds.srt", write_srt),
}
_FILMS = {"alpha-mov": ("alpha.mov", PRORES), "alpha-webm": ("alpha.webm", VP9)}


def convert(
    folder: str | Path, to: str, video: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:  # fmt: skip
    """Write one format (see cli.convert) into a folder that `icf segment` wrote; the path of what was written.

    A file of an earlier run is replaced, complete or not at all. For the videos with alpha, `video` is the one that was
    segmented: its pictures become their colours. Without it they are white and take their times from overlay.mp4.
    Raises UserError if the folder is no result, the format cannot hold it, or a library is missing; ValueError for an
    unknown format.
    """
    if to not in _WRITERS and to not in _FILMS:
        raise ValueError(f"no format {to!r}; there are {', '.join((*_WRITERS, *_FILMS))}")
    folder = Path(folder)
    segmentation = read_segmentation(folder)
    if to in _WRITERS:
        name, write = _WRITERS[to]
        write(segmentation, folder / name)
        return folder / name
    name, form = _FILMS[to]
    source = _source(segmentation, folder, video)
    write_alpha(segmentation, folder / name, form, source, pictures=video is not None, progress=progress)
    return folder / name


def _source(segmentation: Segmentation, folder: Path, video: str | Path | None) -> MediaInfo:
    """Where the times of the pictures come from."""
    source = probe(folder / "overlay.mp4" if video is None else video)
    rate = segmentation.video.frame_rate
    if video is None and source.frame_rate < 0.95 * rate:
        raise UserError(
            f"{source.path}: has {source.frame_rate:.3g} pictures a second and {segmentation.video.path.name} "
            f"{rate:.3g}; give the latter with --video"
        )
    if abs(source.duration - segmentation.video.duration) > 0.1:
        raise UserError(
            f"{source.path}: lasts {source.duration:.2f} s and the masks {segmentation.video.duration:.2f} s; name the "
            "video that was segmented"
        )
    return source


def convert_command(folder: Path, formats: list[str], video: Path | None) -> None:
    """Write formats from the command line: one line each. Raises UserError as convert does."""
    from rich.console import Console
    from rich.progress import Progress

    if video is not None and not set(formats) & set(_FILMS):
        raise UserError(f"{video}: --video is for {' and '.join(_FILMS)} only; leave it out")
    formats = list(dict.fromkeys(formats))
    if folder.is_dir():
        for to in formats:
            name, _ = (_WRITERS | _FILMS)[to]
            check_folder(folder / name, "FOLDER") if to == "palette" else check_file(folder / name, "FOLDER")
    for to in formats:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(to, total=None)
            path = convert(
                folder, to, video,
                progress=lambda done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),
            )  # fmt: skip
        print(path)
