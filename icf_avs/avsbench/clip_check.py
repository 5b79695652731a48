"""What is wrong with the files of one clip."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from icf_avs.avsbench.log_mel_pickle import read_log_mel_pickle
from icf_avs.avsbench.pictures import CLASSES, WITH_IDS, absent
from icf_avs.avsbench.record import ClipRecord
from icf_avs.avsbench.sound import RATE, decode, read_log_mel
from icf_avs.data.media import probe
from icf_avs.data.spectrogram import WINDOW
from icf_avs.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that makes a set unfit; `category` is one of CATEGORIES."""

    category: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


CATEGORIES = (
    "table", "class names", "missing folder", "missing file", "number of frames", "unreadable picture", "size",
    "mask values", "unreadable audio", "sample rate", "ids that cross splits",
)  # fmt: skip


@dataclass
class ClipReport:
    """Problems of one clip, and what is compared between clips."""

    problems: list[Problem] = field(default_factory=list)
    size: tuple[int, int] | None = None  # of its pictures, (width, height)
    rate: int | None = None  # of its audio file, Hz
    audio: Path | None = None


def check_clip(record: ClipRecord, classes: int = CLASSES) -> ClipReport:
    """Open every file of a clip, masks and pictures to the last pixel. `classes`: names there are, with background."""
    report = ClipReport()
    frames = _pictures(record.frame_paths, report)
    labelled = [path for path in record.mask_paths if path is not None]
    masks = _pictures(tuple(labelled), report, extra_allowed=record.split == "train" or record.layout.startswith("own"))
    sizes = {path: picture.size for path, picture in frames.items()}
    if sizes:
        report.size = next(iter(sizes.values()))
    for path, size in [*sizes.items(), *((path, mask.size) for path, mask in masks.items())]:
        if size != report.size and report.size is not None:
            what = f"is {_text(size)}, the first picture of its clip {_text(report.size)}"
            report.problems.append(Problem("size", path, what))
    for path, mask in masks.items():
        what = _mask_values(np.asarray(mask), record.layout in WITH_IDS, classes)
        if what:
            report.problems.append(Problem("mask values", path, what))
    _sound(record, report)
    return report


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _pictures(paths: tuple[Path, ...], report: ClipReport, extra_allowed: bool = False) -> dict[Path, Image.Image]:
    """Open the pictures of one folder, and note what is missing, unreadable, or too many."""
    there = [path for path in paths if path.is_file()]
    if not there:
        missing = absent(paths[0])
        category = "missing file" if missing == paths[0] else "missing folder"
        report.problems.append(Problem(category, missing, "is missing; unpack the set again"))
        return {}
    pattern = f"[!.]*{paths[0].suffix}"
    extra = sorted(set(paths[0].parent.glob(pattern)) - set(paths)) if not extra_allowed else []
    if len(there) < len(paths) or extra:
        first = next((path for path in paths if not path.is_file()), None)
        what = f"holds {len(there) + len(extra)} {paths[0].suffix} files, want {len(paths)}; "
        what += f"{first.name} is missing" if first else f"{extra[0].name} does not belong there"
        report.problems.append(Problem("number of frames", paths[0].parent, what))
    opened = {}
    for path in there:
        try:
            with Image.open(path) as image:
                image.load()
                opened[path] = image
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            report.problems.append(Problem("unreadable picture", path, f"cannot be read ({error}); unpack it again"))
    return opened


def _mask_values(mask: np.ndarray, semantic: bool, classes: int) -> str | None:
    if mask.ndim == 3 and (mask == mask[..., :1]).all():
        mask = mask[..., 0]
    if mask.ndim != 2:
        return f"has {mask.shape[2]} channels, want one"
    values = np.unique(mask)
    if semantic:
        return f"has class id {values[-1]}, want 0 to {classes - 1}" if values[-1] >= classes else None
    if set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}:
        return None
    some = ", ".join(map(str, values[:6].tolist())) + (", ..." if len(values) > 6 else "")
    return f"holds the values {some}; want 0 and 255"


def _sound(record: ClipRecord, report: ClipReport) -> None:
    there = record.sources()
    if not there:
        missing = absent(record.wave_path)
        category = "missing file" if missing == record.wave_path else "missing folder"
        report.problems.append(Problem(category, missing, "is missing; the clip has no sound, unpack the set again"))
    if "wav" in there:
        try:
            wave, report.rate = decode(record.wave_path)
            report.audio = record.wave_path
            if len(wave) < WINDOW:
                what = f"lasts {len(wave) / RATE:.2f} s, less than one window (0.975 s)"
                report.problems.append(Problem("unreadable audio", record.wave_path, what))
        except UserError as error:
            report.problems.append(_audio_problem(record.wave_path, error))
    if "log_mel" in there:
        path = record.log_mel_path
        try:
            if path.suffix == ".pkl":
                windows = len(read_log_mel_pickle(path))
                if windows != len(record.frame_paths):
                    what = f"holds {windows} log-mel windows, want {len(record.frame_paths)}"
                    report.problems.append(Problem("unreadable audio", path, what))
            else:
                read_log_mel(path, len(record.frame_paths))
        except UserError as error:
            report.problems.append(_audio_problem(path, error))
    if there == ["video"]:
        try:
            if not probe(record.video_path).has_audio:
                raise UserError("has no sound, and the clip has no other")
        except UserError as error:
            report.problems.append(_audio_problem(record.video_path, error))


def _audio_problem(path: Path, error: UserError) -> Problem:
    return Problem("unreadable audio", path, str(error).removeprefix(f"{path}:").strip())
