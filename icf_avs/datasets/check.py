"""`icf data check`: list the data sets in a folder, how complete they are, and which files are missing or malformed.

Files are read by the same functions as in training and evaluation. Whatever these refuse is a problem. Counts that
differ from the published ones are only a note, since the set may be your own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from icf_avs.console import VERBOSE, counted, verbosity
from icf_avs.datasets.custom_dataset import NAMES, is_custom_dataset
from icf_avs.datasets.image_io import CLASS_ID_LAYOUTS, CLASSES, SIZE, Layout, missing_folder, read_frames, read_mask
from icf_avs.datasets.jobs import in_threads
from icf_avs.datasets.layouts import SPLITS, TABLES, class_names, find_table, read_all
from icf_avs.datasets.log_mel import read_log_mel_pickle
from icf_avs.datasets.video_clip import ClipRecord
from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio
from icf_avs.media.vggish_frontend import WINDOW
from icf_avs.media.video_reader import probe
from icf_avs.types import RATE

OFFICIAL: dict[Layout | None, dict[str, int]] = {
    "S4": {"train": 3452, "val": 740, "test": 740},
    "MS3": {"train": 296, "val": 64, "test": 64},
    "AVSS": {"train": 8498, "val": 1304, "test": 1554},
}
CATEGORIES = ("table", "class names", "frames", "masks", "audio")
MAX_PROBLEMS_SHOWN = 10  # problems printed per category without -v; all of "table", whose lines are fixed in one file


class Problem(NamedTuple):
    """A fault that makes a set unfit: one of CATEGORIES, and a line that names the file and the fault."""

    category: str
    line: str


@dataclass
class SetReport:
    """Findings in one set, or in one of its clips."""

    root: Path
    layout: Layout | None = None
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self, category: str) -> Iterator[None]:
        """Record a UserError raised in the block as a problem."""
        try:
            yield
        except UserError as error:
            self.problems.append(Problem(category, str(error)))


def find_sets(root: Path) -> list[Path]:
    """Return the folders of the sets in `root`: itself, or those below it. Raises UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder of a set, or one that holds several")
    if is_custom_dataset(root):
        return [root]
    for pattern in ("", "*/", "*/*/"):
        if found := sorted({path.parent for name in TABLES for path in root.glob(pattern + name) if path.is_file()}):
            return found
    raise UserError(
        f"{root} holds no set: want {', '.join(TABLES)} in it or in a folder of it, or "
        "videos/ and masks/; name another folder"
    )


def check_set(root: Path) -> list[SetReport]:
    """Check every file of all sets in `root`, with a progress bar. Raises UserError if there are no sets."""
    return [_check_one(path) for path in find_sets(root)]


def _check_one(root: Path) -> SetReport:
    report, names = SetReport(root), ()
    with report.noting("table"):
        if not is_custom_dataset(root):
            report.layout = TABLES[find_table(root).name][0]
    if report.layout not in ("S4", "MS3"):  # S4 and MS3 may take them from an AVSS set beside them
        with report.noting("class names"):
            names = class_names(root)
    with report.noting("table"):
        records = read_all(root, lambda what: report.problems.append(Problem("table", what)))
        report.layout = records[0].layout if records else report.layout
        report.counts = {split: sum(record.split == split for record in records) for split in SPLITS}
        report.problems += _listed_twice(root, records)
        classes = len(names) + 1 if names else CLASSES
        clips = list(in_threads(lambda record: _check_clip(record, classes), records, f"checking {root.name}"))
        report.problems += [problem for problems, _, _ in clips for problem in problems]
        report.notes += _notes(report, records, names)
        if report.layout in OFFICIAL:
            _check_consistency(report, records, [size for _, size, _ in clips], [rate for *_, rate in clips])
    heads = {f"{root / 'masks'}{os.sep}": "masks", f"{root / NAMES}:": "class names"}  # of a custom set
    lines = {line: category for category, line in report.problems}  # merge repeats: every clip reports a missing folder
    report.problems = [
        Problem(next((head for start, head in heads.items() if line.startswith(start)), category), line)
        for line, category in lines.items()
    ]
    return report


def _listed_twice(root: Path, records: list[ClipRecord]) -> Iterator[Problem]:
    """Find clips that a table lists more than once: in two splits, which makes every score wrong, or in one."""
    splits: dict[tuple[str, str], list[str]] = {}
    for record in records:
        part = record.frame_paths[0].parents[2].name if record.layout == "AVSS" else ""  # v1s, v1m and v2 may share ids
        splits.setdefault((record.name, part), []).append(record.split)
    for (name, _), listed_in in splits.items():
        if len(listed_in) > 1:
            different = sorted(set(listed_in))
            where = f"in {' and '.join(different)}" if len(different) > 1 else f"there {len(listed_in)} times"
            yield Problem("table", f"{find_table(root)}: {name} is {where}; keep one line of it")


def _notes(report: SetReport, records: list[ClipRecord], names: tuple[str, ...]) -> Iterator[str]:
    if report.layout not in OFFICIAL:
        missing = [split for split in SPLITS[:2] if not report.counts[split]]
        yield from (f"no clip of split {split}, so it cannot be trained on" for split in missing)
        if not names:
            yield "no names of classes, so sounds will not be named"
    elif report.counts != OFFICIAL[report.layout]:
        yield "not the published set, its counts differ"
    unknown = Counter(name for record in records for name in (record.sounding or set()) - set(names))
    if report.layout == "AVSS" and names and unknown:
        some = ", ".join(f"{name} ({counted(count, 'clip')})" for name, count in unknown.most_common())
        yield f"{counted(len(unknown), 'name')} of metadata.csv missing in label2idx.json: {some}"


def _check_clip(record: ClipRecord, classes: int) -> tuple[list[Problem], tuple[int, int] | None, int | None]:
    """Read every file of a clip, frames and masks completely. classes: number of the set's classes, with background.

    Returns its problems, the size of its frames (width, height), and the sample rate of its audio file in Hz.
    """
    report, sizes = SetReport(record.frame_paths[0].parent), {}
    for path in record.frame_paths:
        with report.noting("frames"):
            sizes[path] = read_frames([path], None).shape[2:0:-1]
    size = next(iter(sizes.values()), None)
    masks = [path for path in record.mask_paths if path is not None]
    for path in masks:
        with report.noting("masks"):
            mask = read_mask(path, record.layout)
            sizes[path] = mask.shape[::-1]
            if record.layout in CLASS_ID_LAYOUTS and mask.max() >= classes:
                raise UserError(f"{path}: holds class id {mask.max()}, want 0 to {classes - 1}; name it or correct it")
    parts = (("frames", record.frame_paths), ("masks", masks))
    for category, paths in () if record.layout.startswith("own") else parts:  # checked when the set was listed
        for path in paths:
            if size is not None and sizes.get(path, size) != size:
                text = "{}x{}, the first frame of its clip {}x{}".format(*sizes[path], *size)
                report.problems.append(Problem(category, f"{path}: is {text}; unpack the set again"))
        if category == "frames" or None not in record.mask_paths:
            strays = sorted(set(paths[0].parent.glob(f"[!.]*{paths[0].suffix}")) - set(paths))
            report.problems += [Problem(category, f"{path}: does not belong there; remove it") for path in strays]
    rate = None
    with report.noting("audio"):
        rate = _check_audio(record)
    return report.problems, size, rate


def _check_audio(record: ClipRecord) -> int | None:
    """Read all available forms of a clip's audio. Returns the sample rate of its audio file in Hz. Raises UserError."""
    available, rate = record.sources(), None
    if not available:
        raise UserError(
            f"{missing_folder(record.audio_path)}: is missing, and there is no other sound; unpack the set again"
        )
    if available == ["video"] and not probe(record.video_path).has_audio:
        raise UserError(f"{record.video_path}: has no sound, and its clip has no other; unpack the set again")
    if "log_mel" in available:
        count, frames = len(read_log_mel_pickle(record.log_mel_path)), len(record.frame_paths)
        if count != frames:
            raise UserError(
                f"{record.log_mel_path}: holds {count} log-mel windows, want {frames}; unpack the set again"
            )
    if "wav" in available:
        samples, rate = read_audio(record.audio_path, RATE, "unpack the set again")
        if len(samples) < WINDOW:
            seconds = len(samples) / RATE
            raise UserError(f"{record.audio_path}: lasts {seconds:.2f} s, less than one window (0.975 s); remove it")
    return rate


def _check_consistency(report: SetReport, records: list[ClipRecord], sizes: list, rates: list[int | None]) -> None:
    """Compare the clips of a public set: mixed sample rates, and frame sizes that differ from the reference."""
    counts = Counter(rate for rate in rates if rate)
    if len(counts) > 1 and report.layout != "AVSS":  # S4 and MS3 have 16 kHz throughout: not the released file
        usual = counts.most_common(1)[0][0]
        report.problems += [
            Problem("audio", f"{record.audio_path}: is of {rate} Hz, most are of {usual} Hz; unpack the set again")
            for record, rate in zip(records, rates, strict=True)
            if rate not in (None, usual)
        ]
    elif set(counts) - {RATE}:
        text = ", ".join(f"{count} of {rate} Hz" for rate, count in counts.most_common())
        report.notes.append(f"sample rates: {text}; the audio is resampled to 16 kHz when it is read")
    other = sum(size not in (None, (SIZE, SIZE)) for size in sizes)
    if other and report.layout != "AVSS":
        text = f"{counted(other, 'clip')} with frames that are not {SIZE}x{SIZE}"
        report.notes.append(f"{text}; these are squashed unless asked otherwise")


def check_command(root: Path) -> int:
    """Check the sets in `root` and print the findings. Returns exit code 1 if one is unfit, else 0."""
    reports = check_set(root)
    for report in reports:
        print("\n".join(_lines(report)))
    return 1 if any(report.problems for report in reports) else 0


def _lines(report: SetReport) -> Iterator[str]:
    yield f"{report.root}: {report.layout or 'no readable set'}"
    published = OFFICIAL.get(report.layout, {})
    for split, count in report.counts.items():
        yield f"  {split:5} {count:6} clips" + (f", published {published[split]}" if published else "")
    yield from (f"  note: {note}" for note in report.notes)
    for category in CATEGORIES:
        lines = [problem.line for problem in report.problems if problem.category == category]
        shown = len(lines) if category == "table" or verbosity() >= VERBOSE else MAX_PROBLEMS_SHOWN
        if lines:
            yield f"  {category}: {len(lines)}"
            yield from (f"    {line}" for line in lines[:shown])
        if len(lines) > shown:
            yield f"    ... and {len(lines) - shown} more, which -v lists"
    yield f"  UNFIT: {counted(len(report.problems), 'problem')}" if report.problems else "  fit for use"
