"""Reader of the three public layouts of audio-visual segmentation: S4, MS3 and AVSS.

A set is a folder that holds `s4_meta_data.csv`, `ms3_meta_data.csv` or `metadata.csv`; which one says its layout. A
`scenes.csv` beside it (only our own Stamps sets have one) adds which kinds are in the picture and which of them sound.
Features that other tools pickled next to the data are never opened.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from icf_avs.errors import UserError
from icf_avs.stamps.sounds import decode

SIZE = 224
CLASSES = 71  # of AVSS, with background
SPLITS = ("train", "val", "test")
Layout = Literal["S4", "MS3", "AVSS"]
_TABLES: dict[str, tuple[Layout, tuple[str, ...]]] = {
    "s4_meta_data.csv": ("S4", ("name", "category", "split")),
    "ms3_meta_data.csv": ("MS3", ("video_id", "split")),
    "metadata.csv": ("AVSS", ("uid", "split", "label", "a_obj")),
}


class LoadedClip(NamedTuple):
    """One clip of T frames in memory."""

    frames: np.ndarray  # uint8 [T, 224, 224, 3]
    masks: np.ndarray  # uint8 [T, 224, 224], class ids in the AVSS layout, else 0 or 1
    labelled: np.ndarray  # bool [T]; masks of unlabelled frames are zeros and mean nothing
    wave: np.ndarray  # float32 [n], 16 kHz mono


@dataclass(frozen=True)
class ClipRecord:
    """Where the files of one clip lie, and what is known of its kinds.

    `sounding` and `onscreen` are the kinds that sound at some time and the kinds that are in the picture, from
    scenes.csv; without it both are the kinds that the set itself names, and None in MS3, which names none.
    """

    name: str
    split: str
    layout: Layout
    frame_paths: tuple[Path, ...]
    mask_paths: tuple[Path | None, ...]  # None: this frame carries no label
    wave_path: Path
    video_path: Path | None
    sounding: frozenset[str] | None
    onscreen: frozenset[str] | None

    def load(self) -> LoadedClip:
        """Read pictures, masks and sound; pictures of another size are squashed to 224x224, as is usual.

        Raises UserError for a missing or unreadable file and for masks with other values than the layout's.
        """
        frames = np.stack([_picture(path) for path in self.frame_paths])
        blank = np.zeros((SIZE, SIZE), np.uint8)
        masks = np.stack([blank if path is None else _mask(path, self.layout) for path in self.mask_paths])
        labelled = np.array([path is not None for path in self.mask_paths])
        if not self.wave_path.is_file():
            raise UserError(f"no sound of clip {self.name}: {self.wave_path} is missing; unpack the set again")
        return LoadedClip(frames, masks, labelled, decode(self.wave_path))


def read_set(root: Path, split: str) -> list[ClipRecord]:
    """List the clips of one split of the set in folder `root`, in the order of its table; opens no media file.

    Raises UserError if `root` is no such set, its table lacks a column, or the split is empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {SPLITS}")
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder of an S4, MS3 or AVSS set (it holds {', '.join(_TABLES)})")
    tables = [name for name in _TABLES if (root / name).is_file()]
    if len(tables) != 1:
        raise UserError(f"{root} holds {len(tables)} of {', '.join(_TABLES)}; want the folder of exactly one set")
    layout, columns = _TABLES[tables[0]]
    rows = []
    for number, row in enumerate(_rows(root / tables[0], columns), 2):
        if any(row[column] in ("", ".", "..") or "/" in row[column] or "\\" in row[column] for column in columns):
            raise UserError(f"{root / tables[0]}, line {number}: an empty cell or no plain name; mend the table")
        if row["split"] == split:
            rows.append(row)
    if not rows:
        raise UserError(f"{root / tables[0]} has no clip of split {split!r}; ask for another split")
    scenes = _scenes(root)
    make = {"S4": _s4_record, "MS3": _ms3_record, "AVSS": _avss_record}[layout]
    return [make(root, row, scenes) for row in rows]


Kinds = tuple[frozenset[str] | None, frozenset[str] | None]  # sounding, onscreen


def _s4_record(root: Path, row: dict[str, str], scenes: dict[str, Kinds]) -> ClipRecord:
    name, split, category = row["name"], row["split"], row["category"]
    data = root / "s4_data"

    def path(kind: str, ending: str) -> Path:
        return data / kind / split / category / (name + ending)

    labelled = 1 if split == "train" else 5
    return ClipRecord(
        name,
        split,
        "S4",
        tuple(path("visual_frames", "") / f"{name}_{i}.png" for i in range(1, 6)),
        tuple(path("gt_masks", "") / f"{name}_{i}.png" if i <= labelled else None for i in range(1, 6)),
        path("audio_wav", ".wav"),
        _if_there(root / "raw_videos" / split / category / f"{name}.mp4"),
        *scenes.get(name, (frozenset({category}), frozenset({category}))),
    )


def _ms3_record(root: Path, row: dict[str, str], scenes: dict[str, Kinds]) -> ClipRecord:
    name, split = row["video_id"], row["split"]
    data = root / "ms3_data"
    return ClipRecord(
        name,
        split,
        "MS3",
        tuple(data / "visual_frames" / name / f"{name}.mp4_{i}.png" for i in range(1, 6)),
        tuple(data / "gt_masks" / split / name / f"{name}_{i}.png" for i in range(1, 6)),
        data / "audio_wav" / split / f"{name}.wav",
        _if_there(root / "raw_videos" / f"{name}.mp4"),
        *scenes.get(name, (None, None)),
    )


def _avss_record(root: Path, row: dict[str, str], scenes: dict[str, Kinds]) -> ClipRecord:
    name, split, part = row["uid"], row["split"], row["label"]
    if part not in ("v1s", "v1m", "v2"):
        raise UserError(f"{root / 'metadata.csv'}: clip {name} has label {part!r}; want v1s, v1m or v2")
    clip = root / part / name
    frames = 10 if part == "v2" else 5
    labelled = 1 if (part, split) == ("v1s", "train") else frames
    # names are joined by "_" and use "-" within; the two stray tokens are in the public table
    named = frozenset(row["a_obj"].split("_")) - {"", "off-the-screen", "background"}
    return ClipRecord(
        name,
        split,
        "AVSS",
        tuple(clip / "frames" / f"{i}.jpg" for i in range(frames)),
        tuple(clip / "labels_semantic" / f"{i}.png" if i < labelled else None for i in range(frames)),
        clip / "audio.wav",
        None,
        *scenes.get(name, (named, named)),
    )


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            rows = [{key: value or "" for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; want a CSV table with columns {', '.join(columns)}") from error
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(missing)}; want {', '.join(columns)}")
    return rows


def _scenes(root: Path) -> dict[str, Kinds]:
    path = root / "scenes.csv"
    if not path.is_file():
        return {}
    rows = _rows(path, ("video_id", "sounding", "onscreen"))
    return {row["video_id"]: (frozenset(row["sounding"].split()), frozenset(row["onscreen"].split())) for row in rows}


def _picture(path: Path) -> np.ndarray:
    return _pixels(path, "RGB", Image.Resampling.BILINEAR)


def _mask(path: Path, layout: Layout) -> np.ndarray:
    mask = _pixels(path, None, Image.Resampling.NEAREST)
    if mask.ndim == 3 and (mask == mask[..., :1]).all():  # grey, but stored as RGB
        mask = mask[..., 0]
    found = set(np.unique(mask).tolist())
    if mask.ndim != 2 or not (max(found) < CLASSES if layout == "AVSS" else found <= {0, 1} or found <= {0, 255}):
        want = f"class ids 0..{CLASSES - 1}" if layout == "AVSS" else "0 and 255"
        raise UserError(f"{path} is no {layout} mask: want one channel with {want}, got {sorted(found)[:6]}")
    return mask.astype(np.uint8) if layout == "AVSS" else (mask > 0).astype(np.uint8)


def _pixels(path: Path, mode: str | None, resample: Image.Resampling) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if mode is not None:
                image = image.convert(mode)
            return np.asarray(image if image.size == (SIZE, SIZE) else image.resize((SIZE, SIZE), resample))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; unpack the set again, or take its clip out of the table") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the picture {path}: {error}; unpack the set again") from error
