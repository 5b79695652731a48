"""The three public layouts S4, MS3 and AVSS: their clips and class names. custom_dataset.py reads custom sets.

A set is a folder with `s4_meta_data.csv`, `ms3_meta_data.csv` or `metadata.csv`, which determines its layout. A
`scenes.csv` beside it (in composed sets) adds which classes are in the frame and which of them sound. S4 and MS3 are
v1s and v1m of AVSS, so an AVSS set in a folder beside them gives their class names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from icf_avs.datasets.custom_dataset import HELP, custom_class_names, is_custom_dataset, read_custom_dataset
from icf_avs.datasets.image_io import Layout
from icf_avs.datasets.metadata import (
    AVSS_COLUMNS,
    AVSS_TABLE,
    avss_classes,
    find_avss_root,
    parse_classes,
    read_labels,
    read_scenes,
    read_table,
)  # fmt: skip
from icf_avs.datasets.video_clip import Audio, ClipRecord
from icf_avs.errors import Fault, UserError, refused

SPLITS = ("train", "val", "test")
_PARTS = ("v1s", "v1m", "v2")  # parts of AVSS
_LONGEST = 240  # bytes of a name, leaving room for suffixes: file systems allow 255
TABLES: dict[str, tuple[Layout, tuple[str, ...]]] = {
    "s4_meta_data.csv": ("S4", ("name", "category", "split")),
    "ms3_meta_data.csv": ("MS3", ("video_id", "split")),
    AVSS_TABLE: ("AVSS", AVSS_COLUMNS),
}


def find_table(root: Path) -> Path:
    """Return the table of the set in folder `root`. Raises UserError if it holds none or several."""
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder of an S4, MS3 or AVSS set (it holds {', '.join(TABLES)})")
    tables = [name for name in TABLES if (root / name).is_file()]
    folders = [name for name in ("videos", "masks") if (root / name).is_dir()]
    if not tables and len(folders) == 1:
        lacking = "masks" if folders == ["videos"] else "videos"
        raise UserError(f"{root} holds {folders[0]}/ but no {lacking}/, and an own set needs both; {HELP}")
    if len(tables) != 1:
        raise UserError(f"{root} holds {len(tables)} of {', '.join(TABLES)}; want the folder of exactly one set")
    return root / tables[0]


def read_set(root: Path, split: str, sound: Audio = "auto") -> list[ClipRecord]:
    """List the clips of one split of the set in folder `root`, in the order of its table.

    Opens no media files, except videos of a custom set that have to be cut first.
    sound: the form of audio that every clip is loaded with, unless `load` is given another.

    Raises UserError if `root` is no such set, its table lacks a column, or the split is empty.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {SPLITS}")
    records = [replace(record, audio_form=sound) for record in read_all(root) if record.split == split]
    if not records:
        place = root if is_custom_dataset(root) else find_table(root)
        raise UserError(f"{place} has no clip of split {split!r}; ask for another")
    return records


def read_all(root: Path, fault: Fault = refused) -> list[ClipRecord]:
    """List the clips of all splits, see `read_set`. `fault` is called for errors in single clips, including an unknown
    split. Raises UserError for errors that concern the whole set.
    """
    if is_custom_dataset(root):
        return read_custom_dataset(root, fault)
    table = find_table(root)
    layout, columns = TABLES[table.name]
    rows = []
    for number, row in enumerate(read_table(table, columns), 2):
        faults = [
            f"{column} is {row[column]!r}, an empty cell or a name that cannot be a file's; correct the table"
            for column in columns
            if not _is_file_name(row[column])
        ]
        if row["split"] and row["split"] not in SPLITS:
            faults.append(f"split {row['split']!r}; want {', '.join(SPLITS)}")
        if layout == "AVSS" and row["label"] and row["label"] not in _PARTS:
            faults.append(f"clip {row['uid']} has label {row['label']!r}; want {', '.join(_PARTS)}")
        for what in faults:
            fault(f"{table}, line {number}: {what}")
        if not faults:
            rows.append(row)
    scenes = read_scenes(root, fault)
    if layout == "AVSS":
        return [_avss_record(root, row, scenes) for row in rows]
    classes_by_clip = avss_classes(root, "v1s" if layout == "S4" else "v1m")
    return [_avsbench_record(root, layout, row, scenes, classes_by_clip) for row in rows]


def class_names(root: Path) -> tuple[str, ...]:
    """Return the class names of the set in `root`, without background: class id 1 is the first.

    AVSS, and S4 or MS3 beside an AVSS set: those of AVSS. S4 alone: the categories of its table, in alphabetical order.
    MS3 alone: none. Raises UserError for a missing or inconsistent label2idx.json.
    """
    if is_custom_dataset(root):
        return custom_class_names(root)
    if (avss := find_avss_root(root)) is not None:
        return read_labels(avss / "label2idx.json")[1:]
    table = root / "s4_meta_data.csv"
    return tuple(sorted({row["category"] for row in read_table(table, ("category",))})) if table.is_file() else ()


def is_stamps(root: Path) -> bool:
    """Return True if the set in `root` is of the embedded benchmark: it has scenes.csv, but no composed.json, which
    `icf data compose` writes beside its scenes.csv.
    """
    return (root / "scenes.csv").is_file() and not (root / "composed.json").is_file()


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and not set("/\\\0") & set(name) and len(name.encode()) <= _LONGEST


def _avsbench_record(
    root: Path,
    layout: Layout,
    row: dict[str, str],
    scenes: dict[str, dict],
    classes_by_clip: dict[str, frozenset[str]] | None,
) -> ClipRecord:
    """Return the record of a clip of S4 or MS3. classes_by_clip: from the metadata of AVSS."""
    split = row["split"]
    if layout == "S4":
        name, inner, data, stem = row["name"], f"{split}/{row['category']}", root / "s4_data", f"{row['name']}_"
        frames, video = data / "visual_frames" / inner / name, root / "raw_videos" / inner / f"{name}.mp4"
        # S4 categories differ from the class names of AVSS, so the two are never mixed in one set.
        known = (
            frozenset({row["category"]})
            if classes_by_clip is None
            else classes_by_clip.get(_uid(name, row.get("start", "")))
        )
    else:
        name, inner, data, stem = row["video_id"], split, root / "ms3_data", f"{row['video_id']}.mp4_"
        frames, video = data / "visual_frames" / name, root / "raw_videos" / f"{name}.mp4"
        known = None if classes_by_clip is None else classes_by_clip.get(name)
    masks, labelled = data / "gt_masks" / inner / name, 1 if (layout, split) == ("S4", "train") else 5
    return ClipRecord(
        name, split, layout,
        tuple(frames / f"{stem}{i}.png" for i in range(1, 6)),
        tuple(masks / f"{name}_{i}.png" if i <= labelled else None for i in range(1, 6)),
        data / "audio_wav" / inner / f"{name}.wav", video if video.is_file() else None,
        log_mel_path=data / "audio_log_mel" / inner / f"{name}.pkl",
        **scenes.get(name, {"sounding": known, "onscreen": known}),
    )  # fmt: skip


def _uid(name: str, start: str) -> str:
    """Return the AVSS name of an S4 clip, which includes start and end in milliseconds."""
    try:
        begin = round(float(start) * 1000)
    except (ValueError, OverflowError):
        return name
    return f"{name}_{begin}_{begin + 5000}"


def _avss_record(root: Path, row: dict[str, str], scenes: dict[str, dict]) -> ClipRecord:
    name, split, part = row["uid"], row["split"], row["label"]
    clip, frames, known = root / part / name, 10 if part == "v2" else 5, parse_classes(row["a_obj"])
    labelled = 1 if (part, split) == ("v1s", "train") else frames
    return ClipRecord(
        name, split, "AVSS",
        tuple(clip / "frames" / f"{i}.jpg" for i in range(frames)),
        tuple(clip / "labels_semantic" / f"{i}.png" if i < labelled else None for i in range(frames)),
        clip / "audio.wav", None,
        **scenes.get(name, {"sounding": known, "onscreen": known}),
    )  # fmt: skip
