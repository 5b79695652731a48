"""`icf data check`: which public sets lie in a folder, how complete they are, and what of them is missing or malformed.

Counts other than the published ones are said, but do not make a set unfit: it may be a set of one's own. Whatever
would make training or evaluation fail, or silently read something wrong, does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from icf_avs.avsbench.clip_check import CATEGORIES, ClipReport, Problem, check_clip
from icf_avs.avsbench.layouts import SPLITS, TABLES, find_table, read_all
from icf_avs.avsbench.names import read_labels
from icf_avs.avsbench.own import is_own, own_names
from icf_avs.avsbench.pictures import CLASSES, SIZE, Layout
from icf_avs.avsbench.record import ClipRecord
from icf_avs.avsbench.tables import kinds, read_table
from icf_avs.errors import UserError

OFFICIAL: dict[Layout, dict[str, int]] = {
    "S4": {"train": 3452, "val": 740, "test": 740},
    "MS3": {"train": 296, "val": 64, "test": 64},
    "AVSS": {"train": 8498, "val": 1304, "test": 1554},
}
_COLUMNS: dict[Layout, tuple[str, ...]] = {
    "S4": ("name", "start", "category", "split"),
    "MS3": ("video_id", "split"),
    "AVSS": ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"),
}
SHOWN = 10  # problems named in each category but that of tables, which are mended at once

Progress = Callable[[Path, int, int], None]  # set, clips checked, clips in all


@dataclass
class SetReport:
    """What was found of one set."""

    root: Path
    layout: Layout | None = None
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Note what is wrong with a table of the set, or with what it lists."""
        self.problems.append(Problem("table", self.root, what))

    @property
    def official(self) -> bool:
        return self.counts == OFFICIAL.get(self.layout)

    @property
    def fit(self) -> bool:
        return not self.problems


@dataclass
class Report:
    """What was found of all sets in a folder."""

    sets: list[SetReport]

    @property
    def fit(self) -> bool:
        return all(found.fit for found in self.sets)


def find_sets(root: Path) -> list[Path]:
    """Folders of the sets in `root`: itself, or those in it. Raises UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"no folder {root}: name the folder of a set, or one that holds several")
    if is_own(root):
        return [root]
    for pattern in ("", "*/", "*/*/"):
        found = sorted({path.parent for name in TABLES for path in root.glob(f"{pattern}{name}") if path.is_file()})
        if found:
            return found
    raise UserError(
        f"{root} holds no set: want {', '.join(TABLES)} in it or in a folder of it, or "
        "videos/ and masks/; name another folder"
    )


def check_set(root: Path, progress: Progress = lambda root, done, total: None) -> Report:
    """Check all sets in `root`, every file. Raises UserError if there are none."""
    return Report([_check_one(path, progress) for path in find_sets(root)])


def _check_one(root: Path, progress: Progress) -> SetReport:
    report = SetReport(root)
    if is_own(root):
        return _check_own(report, progress)
    try:
        table = find_table(root)
        report.layout = TABLES[table.name][0]
        read_table(table, _COLUMNS[report.layout])
        records = read_all(root, report.fault)
    except UserError as error:
        report.fault(str(error))
        return report
    report.counts = {split: sum(record.split == split for record in records) for split in SPLITS}
    report.problems += _crossing(table, records)
    classes = CLASSES
    if report.layout == "AVSS":
        classes = _check_names(root, table, report)
    _compare(_check_clips(records, classes, report, progress), report)
    return report


def _check_own(report: SetReport, progress: Progress) -> SetReport:
    try:
        records = read_all(report.root, report.fault)
    except UserError as error:
        report.fault(str(error))
        return report
    report.layout = records[0].layout if records else None
    report.counts = {split: sum(record.split == split for record in records) for split in SPLITS}
    for split in SPLITS[:2]:
        if not report.counts[split]:
            report.notes.append(f"no clip of split {split}, so it cannot be trained on")
    names = own_names(report.root, lambda known: None)
    if not names:
        report.notes.append("no names of classes, so sounds will not be named")
    _check_clips(records, len(names) + 1, report, progress)
    return report


def _check_clips(records: list[ClipRecord], classes: int, report: SetReport, progress: Progress) -> list[ClipReport]:
    seen: set[tuple[str, Path]] = set()
    clips: list[ClipReport] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for clip in pool.map(lambda record: check_clip(record, classes), records):
            clips.append(clip)
            for problem in clip.problems:  # a folder that is missing is missed by all of its clips
                if (problem.category, problem.path) not in seen:
                    seen.add((problem.category, problem.path))
                    report.problems.append(problem)
            progress(report.root, len(clips), len(records))
    return clips


def _crossing(table: Path, records: Iterable[ClipRecord]) -> Iterable[Problem]:
    """Clips that the table has twice: in two splits, which makes every score wrong, or in one."""
    splits: dict[tuple[str, str], list[str]] = {}
    for record in records:
        part = record.frame_paths[0].parents[2].name if record.layout == "AVSS" else ""  # v1s, v1m and v2 may share ids
        splits.setdefault((record.name, part), []).append(record.split)
    for (name, _), found in splits.items():
        if len(set(found)) > 1:
            yield Problem("ids that cross splits", table, f"{name} is in {' and '.join(sorted(set(found)))}")
        elif len(found) > 1:
            yield Problem("table", table, f"{name} is there {len(found)} times")


def _check_names(root: Path, table: Path, report: SetReport) -> int:
    """Check the class names and videos of an AVSS set; the number of classes."""
    rows = read_table(table, _COLUMNS["AVSS"])
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["vid"], set()).add(row["split"])
    crossing = sum(len(found) > 1 for found in splits.values())
    if crossing:
        report.notes.append(f"{crossing} source videos cross splits by other clips of theirs (22 in the published set)")
    try:
        names = read_labels(root / "label2idx.json")
    except UserError as error:
        report.problems.append(Problem("class names", root / "label2idx.json", str(error)))
        return CLASSES
    if len(names) != CLASSES:
        report.notes.append(f"label2idx.json has {len(names)} names (71 in the published set)")
    unknown = Counter(chain.from_iterable(kinds(row["a_obj"]) - set(names) for row in rows))
    if unknown:
        some = ", ".join(f"{name} ({count} clips)" for name, count in unknown.most_common(5))
        report.notes.append(
            f"{len(unknown)} names in metadata.csv are not in label2idx.json: {some}; clips in brackets"
        )
    return len(names)


def _compare(clips: list[ClipReport], report: SetReport) -> None:
    """What no clip shows alone: mixed sample rates, pictures of another size than the reference's."""
    rates = Counter(clip.rate for clip in clips if clip.rate)
    if len(rates) > 1:
        usual = rates.most_common(1)[0][0]
        text = ", ".join(f"{count} of {rate} Hz" for rate, count in rates.most_common())
        if report.layout == "AVSS":
            report.notes.append(f"sample rates differ ({text}); every sound is resampled to 16 kHz when it is read")
        else:  # these two layouts are of 16 kHz throughout, so such a file is not the released one
            for clip in clips:
                if clip.rate not in (None, usual):
                    what = f"is of {clip.rate} Hz, most are of {usual} Hz ({text}); it is resampled when it is read"
                    report.problems.append(Problem("sample rate", clip.audio, what))
    elif rates and 16_000 not in rates:
        report.notes.append(f"sound is of {next(iter(rates))} Hz, not 16 kHz; it is resampled when it is read")
    other = sum(clip.size not in (None, (SIZE, SIZE)) for clip in clips)
    if other and report.layout != "AVSS":
        report.notes.append(
            f"pictures of {other} clips are not {SIZE}x{SIZE}; they are squashed unless asked otherwise"
        )


def check_command(root: Path) -> int:
    """Check the sets in `root` with a progress bar and print what was found; exit code 1 if one is unfit."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {path: bar.add_task(f"checking {path.name}", total=None) for path in find_sets(root)}
        report = check_set(root, lambda path, done, total: bar.update(tasks[path], completed=done, total=total))
    for found in report.sets:
        print("\n".join(_lines(found)))
    return 0 if report.fit else 1


def _lines(found: SetReport) -> Iterable[str]:
    yield f"{found.root}: {found.layout or 'no readable set'}"
    if found.layout and found.counts:
        published = OFFICIAL.get(found.layout, {})
        for split, count in found.counts.items():
            yield f"  {split:5} {count:6} clips" + (f", published {published[split]}" if published else "")
        if published and not found.official:
            yield "  note: not the published set, its counts differ"
    for note in found.notes:
        yield f"  note: {note}"
    for category in CATEGORIES:
        problems = [problem for problem in found.problems if problem.category == category]
        if problems:
            yield f"  {category}: {len(problems)}"
            shown = len(problems) if category == "table" else SHOWN
            yield from (f"    {problem}" for problem in problems[:shown])
            if len(problems) > shown:
                yield f"    ... and {len(problems) - shown} more"
    yield "  fit for use" if found.fit else f"  UNFIT: {len(found.problems)} problems"
