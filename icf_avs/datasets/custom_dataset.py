"""Custom data set, the simplest layout (docs/OWN_DATA.md): videos, and masks named by the second.

DIR/videos/NAME.mp4            any container and codec that FFmpeg reads, with sound
DIR/masks/NAME/000007.png      what sounds in second 7, at the size of the video; seconds without a file are unlabelled
DIR/classes.txt                optional: one class per line; masks then hold class ids, 1 for the first line
DIR/clips.csv                  optional: name, split; with a column class ("dog", "dog;cat") masks are 0 and 255

Without clips.csv a tenth of the videos is `val` and a tenth `test`, chosen by name. A video is in one split only. It is
read as its five-second clips with a mask. Each is cut once (one frame per second and the audio) into
cache/own/KEY/FIRST; the key changes with the video's path, size and modification time. The frame of second i is the one
shown at i + 0.5, as in `icf segment`, so that masks written there can be corrected and used here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from av.error import FFmpegError
from PIL import Image

from icf_avs.atomic_io import cache_dir, replaced_folder
from icf_avs.datasets.clip_files import write_wav
from icf_avs.datasets.image_io import CLASSES, Layout, open_image
from icf_avs.datasets.jobs import in_threads
from icf_avs.datasets.metadata import check_columns, read_table
from icf_avs.datasets.video_clip import ClipRecord, to_int16
from icf_avs.errors import Fault, UserError, refused
from icf_avs.media.audio_windows import AudioWindows, mask_count
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.types import RATE

CLIPS, NAMES = "clips.csv", "classes.txt"
CLIP_SECONDS, PHASE = 5, 0.5
HELP = "docs/OWN_DATA.md shows the layout"


@dataclass(frozen=True)
class LabelledVideo:
    """One video of the set. classes: what sounds in it, from clips.csv; None if that file does not give classes."""

    name: str
    path: Path
    split: str
    classes: frozenset[str] | None
    masks: dict[int, Path]  # by second

    def clips(self) -> dict[int, Path]:
        """Return the folders of its clips (0.jpg, ..., audio.wav) by first second, cut or not."""
        state = self.path.stat()
        key = f"{self.path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        folder = cache_dir() / "own" / hashlib.sha256(key.encode()).hexdigest()[:16]
        firsts = sorted({second // CLIP_SECONDS * CLIP_SECONDS for second in self.masks})
        return {first: folder / f"{first:06d}" for first in firsts}


def is_custom_dataset(root: Path) -> bool:
    """Return True if `root` holds a custom data set."""
    return (root / "videos").is_dir() and (root / "masks").is_dir()


def read_custom_dataset(root: Path, fault: Fault = refused) -> list[ClipRecord]:
    """Return the clips of all splits, ordered by video name. Cuts new videos first, with a progress bar.

    `fault` is called for each error in a line of a table, a video, or the name or size of a mask. Raises UserError for
    errors that concern the whole set.
    """
    videos = read_videos(root, fault)
    uncut = [video for video in videos if not all(folder.is_dir() for folder in video.clips().values())]
    for error in filter(None, in_threads(_cut, uncut, "cutting videos")):
        fault(error)
    has_ids = (root / NAMES).is_file() and all(video.classes is None for video in videos)
    records = []
    for video in videos:
        cut = {first: folder for first, folder in video.clips().items() if folder.is_dir()}
        clips = [_record(video, *clip, "own-classes" if has_ids else "own", fault) for clip in cut.items()]
        labelled = {path for record in clips for path in record.mask_paths}
        beyond = next((second for second, path in video.masks.items() if path not in labelled), None)
        if beyond is not None and clips:
            fault(
                f"{video.masks[beyond]}: {video.path.name} has no second {beyond} (masks are numbered by the "
                "second, from 0); take the mask out or rename it"
            )
        records += clips
    return records


def read_videos(root: Path, fault: Fault = refused) -> list[LabelledVideo]:
    """Return the videos of the set and their masks by second, without opening a video.

    For `fault` and UserError see `read_custom_dataset`.
    """
    paths: dict[str, Path] = {}
    for path in sorted(path for path in (root / "videos").glob("[!.]*") if path.is_file()):
        if path.stem in paths:
            fault(f"{path}: and {paths[path.stem].name} have the same name; rename one and its masks")
        paths[path.stem] = path
    if not paths:
        raise UserError(f"{root / 'videos'}: holds no video; put NAME.mp4 there. {HELP}")
    rows = _read_clips(root, paths, fault) if (root / CLIPS).is_file() else _draw_splits(root, paths)
    known = custom_class_names(root, fault)
    videos = []
    for name, row in sorted(rows.items()):
        classes = frozenset(part.strip() for part in row["class"].split(";")) if "class" in row else None
        for unknown in sorted((classes or set()) - set(known)):
            fault(f"{root / CLIPS}: class {unknown!r} of {name} is not in {NAMES}; add it there")
        masks = _masks(root / "masks" / name, paths[name], fault)
        videos.append(LabelledVideo(name, paths[name], row["split"], classes, masks))
    for stray in sorted(path for path in (root / "masks").iterdir() if path.is_dir() and path.name not in paths):
        fault(f"{stray}: there is no video of this name in {root / 'videos'}; {HELP}")
    return videos


def custom_class_names(root: Path, fault: Fault = refused) -> tuple[str, ...]:
    """Return class names, id 1 first: from classes.txt, else from the column class of clips.csv, sorted, else none.

    `fault` is called for names that are empty, repeated, or too many. Raises UserError if classes.txt is not text.
    """
    path = root / NAMES
    if path.is_file():
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is not text in UTF-8; save it as such") from error
        if not names:
            fault(f"{path}: holds no name; write a class a line, or remove it")
    else:
        path = root / CLIPS
        rows = read_table(path, ("name", "split")) if path.is_file() else []
        names = sorted({part.strip() for row in rows if "class" in row for part in row["class"].split(";")})
    if "" in names:
        fault(f"{path}: an empty name of a class; fill it in")
    if "background" in names:
        fault(f"{path}: background is not a class to name (it is 0 in the masks); remove it")
    if len(set(names)) < len(names) or len(names) >= CLASSES:
        fault(f"{path}: {len(names)} names, {len(set(names))} of them different; want 1 to {CLASSES - 1}")
    return tuple(names)


def _read_clips(root: Path, paths: dict[str, Path], fault: Fault) -> dict[str, dict[str, str]]:
    """Return the rows of clips.csv by video."""
    table, rows = root / CLIPS, {}
    lines = read_table(table, ("name", "split"))
    check_columns(table, lines, ("name", "split", "class"))
    for number, row in enumerate(lines, 2):
        where = f"{table}, line {number}"
        if row["name"] not in paths:
            fault(f"{where}: no video {row['name']!r} in {root / 'videos'} (its name without the ending)")
        elif row["name"] in rows:
            fault(f"{where}: {row['name']} is listed twice; a video is in one split alone")
        else:
            if row["split"] not in ("train", "val", "test"):
                fault(f"{where}: split {row['split']!r}; want train, val or test")
            rows[row["name"]] = row
    for name in sorted(set(paths) - set(rows)):
        fault(f"{table}: {paths[name].name} is not in it; add its line, or take the video out")
    return rows


def _draw_splits(root: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Split videos by a hash of their names: the first tenth is val, the second test."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 3:
        raise UserError(
            f"{root / 'videos'}: {len(order)} videos are too few for the splits train, val and test; add some, or "
            f"write {CLIPS} with the columns name and split"
        )
    part = max(1, round(len(order) / 10))
    return {name: {"split": ("val", "test")[i // part] if i < 2 * part else "train"} for i, name in enumerate(order)}


def _masks(folder: Path, video: Path, fault: Fault) -> dict[int, Path]:
    """Return the masks of a video by second, in order."""
    paths = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    if not paths:
        fault(f"{folder}: no masks of {video.name}; put 000000.png (second 0), ... there, or remove it")
    masks: dict[int, Path] = {}
    for path in paths:
        if path.suffix.lower() != ".png" or not (path.stem.isascii() and path.stem.isdigit()):
            fault(f"{path}: is not the name of a mask; want the second it stands for and .png: 000007.png")
        elif int(path.stem) in masks:
            fault(f"{path}: and {masks[int(path.stem)].name} are of the same second; keep one")
        else:
            masks[int(path.stem)] = path
    return dict(sorted(masks.items()))


def _record(video: LabelledVideo, first: int, folder: Path, layout: Layout, fault: Fault) -> ClipRecord:
    frames = tuple(sorted(folder.glob("*.jpg")))
    masks = tuple(video.masks.get(first + i) for i in range(len(frames)))
    width, height = open_image(frames[0], decode=False).size
    for path in filter(None, masks):
        try:
            size = open_image(path, decode=False).size
        except UserError as error:
            fault(str(error))
            continue
        if size != (width, height):
            fault(f"{path}: is {size[0]}x{size[1]}, its video {width}x{height}; masks are as large as the video")
    name, known = f"{video.name}_{first}_{first + len(frames)}", video.classes
    return ClipRecord(name, video.split, layout, frames, masks, folder / "audio.wav", None, known, known)


def _cut(video: LabelledVideo) -> str | None:
    """Cut the clips that are not cached, except those after the end of the video. Returns an error message or None."""
    try:
        info = probe(video.path)
        if not info.has_audio:
            raise UserError(f"{video.path}: has no sound, which is needed to tell what sounds; remove it and its masks")
        count = mask_count(info.duration, 1.0)
        clips = {first: folder for first, folder in video.clips().items() if first < count and not folder.is_dir()}
        spans = [range(first, min(first + CLIP_SECONDS, count)) for first in clips]
        frames = read_frames(info, (second + PHASE for span in spans for second in span))
        sound = AudioWindows(info, RATE)
        for folder, span in zip(clips.values(), spans, strict=True):
            with replaced_folder(folder, (FFmpegError,)) as new:
                for number in range(len(span)):
                    Image.fromarray(next(frames)[1]).save(new / f"{number}.jpg", quality=95)
                write_wav(new / "audio.wav", to_int16(sound.read(span[0] * RATE, len(span) * RATE)))
    except UserError as error:
        return str(error)
