"""A data set of one's own, the simplest layout there is (docs/OWN_DATA.md): videos, and masks by the second.

DIR/videos/NAME.mp4            any container and codec that FFmpeg reads, with sound
DIR/masks/NAME/000007.png      what sounds in second 7, as large as the video; seconds without a file are not labelled
DIR/classes.txt                optional: a class a line; masks hold class ids then, 1 for the first line
DIR/clips.csv                  optional: name, split; with a column class ("dog", "dog;cat") masks are 0 and 255

Without clips.csv a tenth of the videos is `val`, a tenth `test`, chosen by their names. A video is read in clips of
five seconds, those that hold a mask; a video is in one split alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from icf_avs.avsbench.own_cut import CLIP_SECONDS, Wanted, cut_clips
from icf_avs.avsbench.pictures import CLASSES, Layout
from icf_avs.avsbench.record import ClipRecord
from icf_avs.avsbench.tables import check_columns, read_table
from icf_avs.errors import Fault, UserError, refused

CLIPS, NAMES = "clips.csv", "classes.txt"
HELP = "docs/OWN_DATA.md shows the layout"


@dataclass(frozen=True)
class OwnVideo:
    """One video of the set. kinds: what sounds in it, from clips.csv; None where that does not say."""

    name: str
    path: Path
    split: str
    kinds: frozenset[str] | None
    masks: dict[int, Path]  # second -> mask


def is_own(root: Path) -> bool:
    """Whether `root` holds a data set of one's own."""
    return (root / "videos").is_dir() and (root / "masks").is_dir()


def read_own(root: Path, fault: Fault = refused) -> list[ClipRecord]:
    """The clips of all splits, in the order of the videos' names. Videos not seen before are cut, with a progress bar.

    `fault` is told of what is wrong with a line of a table, a video, or the name or size of a mask. Raises UserError
    for what concerns all.
    """
    videos = read_videos(root, fault)
    layout: Layout = "own-classes" if _has_ids(root) else "own"
    wanted = [Wanted(video.path, tuple(sorted({_first(second) for second in video.masks}))) for video in videos]
    records = []
    for video, clips in zip(videos, cut_clips(wanted, fault), strict=True):
        for first, folder in clips.items():
            records.append(_record(video, first, folder, layout, fault))
        beyond = set(video.masks) - {first + i for first, folder in clips.items() for i in range(len(_frames(folder)))}
        if beyond and clips:
            fault(
                f"{video.masks[min(beyond)]}: {video.path.name} has no second {min(beyond)} (masks are numbered by the "
                "second, from 0); take the mask out or rename it"
            )
    return records


def read_videos(root: Path, fault: Fault = refused) -> list[OwnVideo]:
    """The videos of the set and their masks by the second; opens none of them. `fault`, UserError: as `read_own`."""
    paths = _by_stem(root / "videos", fault)
    rows = _rows(root, paths, fault)
    known = own_names(root, fault)
    found = []
    for name in sorted(rows):
        row = rows[name]
        kinds = frozenset(part.strip() for part in row["class"].split(";")) if "class" in row else None
        unknown = sorted((kinds or set()) - set(known))
        for kind in unknown:
            fault(f"{root / CLIPS}: class {kind!r} of {name} is not in {NAMES}; add it there")
        masks = _masks(root / "masks" / name, paths[name], fault)
        found.append(OwnVideo(name, paths[name], row["split"], kinds, masks))
    for stray in sorted(path for path in (root / "masks").iterdir() if path.is_dir() and path.name not in paths):
        fault(f"{stray}: there is no video of this name in {root / 'videos'}; {HELP}")
    return found


def own_names(root: Path, fault: Fault = refused) -> tuple[str, ...]:
    """Class names, id 1 first: of classes.txt, else of the column class of clips.csv in alphabetical order, else none.

    `fault` is told of names that are empty, twice there, or too many. Raises UserError for what is no text.
    """
    path = root / NAMES
    if path.is_file():
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is no text in UTF-8; save it as such") from error
        while names and not names[-1]:
            names.pop()
    else:
        path = root / CLIPS
        rows = read_table(path, ("name", "split")) if path.is_file() else []
        names = sorted({part.strip() for row in rows if "class" in row for part in row["class"].split(";")})
    if path.name == NAMES and not names:
        fault(f"{path}: holds no name; write a class a line, or take it out")
    if "" in names:
        fault(f"{path}: an empty name of a class; fill it in")
    if "background" in names:
        fault(f"{path}: background is no class of its own (it is 0 in the masks); take it out")
    if len(set(names)) < len(names) or len(names) >= CLASSES:
        fault(f"{path}: {len(names)} names, {len(set(names))} of them different; want 1 to {CLASSES - 1}")
    return tuple(names)


def _has_ids(root: Path) -> bool:
    """Whether masks hold class ids."""
    table = root / CLIPS
    named = table.is_file() and any("class" in row for row in read_table(table, ("name", "split")))
    return (root / NAMES).is_file() and not named


def _by_stem(folder: Path, fault: Fault) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in paths:
            fault(f"{path}: and {paths[path.stem].name} have the same name; rename one and its masks")
        paths[path.stem] = path
    if not paths:
        raise UserError(f"{folder}: holds no video; put NAME.mp4 there. {HELP}")
    return paths


def _rows(root: Path, paths: dict[str, Path], fault: Fault) -> dict[str, dict[str, str]]:
    """Of each video its split, and its class where a table says."""
    table = root / CLIPS
    if not table.is_file():
        return {name: {"split": split} for name, split in _drawn(root, paths).items()}
    rows: dict[str, dict[str, str]] = {}
    lines = read_table(table, ("name", "split"))
    check_columns(table, lines, ("name", "split", "class"))
    for number, row in enumerate(lines, 2):
        where = f"{table}, line {number}"
        if row["name"] not in paths:
            fault(f"{where}: no video {row['name']!r} in {root / 'videos'} (its name without the ending)")
        elif row["name"] in rows:
            fault(f"{where}: {row['name']} is there twice; a video is in one split alone")
        else:
            if row["split"] not in ("train", "val", "test"):
                fault(f"{where}: split {row['split']!r}; want train, val or test")
            rows[row["name"]] = row
    for name in sorted(set(paths) - set(rows)):
        fault(f"{table}: {paths[name].name} is not in it; add its line, or take the video out")
    return rows


def _drawn(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Split by name: in an order that does not follow the alphabet, the first tenth val, the second test."""
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 3:
        raise UserError(
            f"{root / 'videos'}: {len(order)} videos are too few for the splits train, val and test; add some, or "
            f"write {CLIPS} with the columns name and split"
        )
    part = max(1, round(len(order) / 10))
    return {name: ("val", "test")[i // part] if i < 2 * part else "train" for i, name in enumerate(order)}


def _masks(folder: Path, video: Path, fault: Fault) -> dict[int, Path]:
    paths = [path for path in folder.glob("*") if path.is_file() and not path.name.startswith(".")]
    if not paths:
        fault(f"{folder}: no masks of {video.name}; put 000000.png (second 0), ... there, or take it out")
    masks: dict[int, Path] = {}
    for path in sorted(paths):
        if path.suffix.lower() != ".png" or not (path.stem.isascii() and path.stem.isdigit()):
            fault(f"{path}: no name of a mask; want the second it stands for and .png: 000007.png")
        elif int(path.stem) in masks:
            fault(f"{path}: and {masks[int(path.stem)].name} are of the same second; keep one")
        else:
            masks[int(path.stem)] = path
    return masks


def _first(second: int) -> int:
    return second // CLIP_SECONDS * CLIP_SECONDS


def _frames(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.jpg")))


def _record(video: OwnVideo, first: int, folder: Path, layout: Layout, fault: Fault) -> ClipRecord:
    frames = _frames(folder)
    masks = tuple(video.masks.get(first + i) for i in range(len(frames)))
    shown = _size(frames[0])
    for path in filter(None, masks):
        try:
            size = _size(path)
        except UserError as error:
            fault(str(error))
            continue
        if size != shown:
            fault(f"{path}: is {size[0]}x{size[1]}, its video {shown[0]}x{shown[1]}; masks are as large as the video")
    return ClipRecord(
        f"{video.name}_{first}_{first + len(frames)}",
        video.split,
        layout,
        frames,
        masks,
        folder / "audio.wav",
        None,
        sounding=video.kinds,
        onscreen=video.kinds,
    )


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {path}: {error}; write it again") from error
