"""The manifest, a CSV list of videos that is checked completely before any work starts, and the table of failures.

Columns: `video`, a path relative to the folder of the manifest; optional: `out`, the result folder below --out
(default: the video's name without extension), `fps` and `audio_track`. Other columns are refused, since they might be
misspelt ones.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from icf_avs.arg_types import positive, rate
from icf_avs.atomic_io import write_text
from icf_avs.batch.job import Job, JobSettings
from icf_avs.errors import UserError, did_you_mean

REPORT = "failures.csv"  # table of failures, below --out
COLUMNS = ("video", "out", "fps", "audio_track")


def read_manifest(path: Path, out: Path, settings: JobSettings) -> list[Job]:
    """Return the jobs of a manifest in order, each with a separate folder below `out`.

    settings   defaults for rows without values

    Raises UserError if the file is not such a table, a value is unusable, two rows would write to the same or to nested
    folders, or a folder holds something else. Missing or corrupt videos are detected only when they are processed.
    """
    advice, out = "give another name in the column `out`", Path(os.path.abspath(out))

    def key(folder: Path) -> str:
        return str(folder).casefold()  # some file systems do not distinguish DOG from dog

    owners = {key(out / REPORT): "the report"}  # owner of each folder
    jobs = []
    for number, row in _rows(path):
        job = _job(f"{path}, line {number}", row, path.parent, out, settings)
        if owner := owners.get(key(job.folder)):
            raise UserError(f"{path}, line {number}: would write the same folder as {owner}, {job.folder}; {advice}")
        owners[key(job.folder)] = f"line {number}"
        jobs.append(job)
    if not jobs:
        raise UserError(f"{path}: lists no video; give one a line below the heading `video`")
    for job in jobs:
        for parent in job.folder.relative_to(out).parents:
            if owner := owners.get(key(out / parent)):
                raise UserError(f"{path}: {job.folder} would lie inside the folder of {owner}; {advice}")
        job.replaceable_folder()
    return jobs


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells of each row."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_names(path, names)
            for cells in reader:
                if len(cells) not in (0, len(names)):
                    raise UserError(
                        f"{path}, line {reader.line_num}: has {len(cells)} cells where the heading has {len(names)}; "
                        'write a name with a comma as "a, b.mp4"'
                    )
                if cells:
                    yield reader.line_num, dict(zip(names, cells, strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; save the table as CSV in UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is not CSV ({error}); save the table as CSV again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a CSV file with a column `video`") from error


def _check_names(path: Path, names: list[str]) -> None:
    if "video" not in names:
        shown = ",".join(names)[:80] or "empty"
        raise UserError(f"{path}: has no column `video` (its first line is {shown}); want a heading, comma-separated")
    for name in filter(None, names):
        if name not in COLUMNS:
            advice = f"{did_you_mean(name, COLUMNS)} remove it, or write one of {', '.join(COLUMNS)}"
            raise UserError(f"{path}: nothing reads the column `{name}`{advice}")
        if names.count(name) > 1:
            raise UserError(f"{path}: has {names.count(name)} columns `{name}`; leave one")


def _job(where: str, row: dict[str, str], folder: Path, out: Path, settings: JobSettings) -> Job:
    name, wanted, fps, track = (row.get(column, "").strip() for column in COLUMNS)
    video = Path(os.path.abspath(folder / row["video"]))
    if not name or not video.name or "\0" in name:
        raise UserError(f"{where}: names no video; write its path into the column `video`")
    result = Path(os.path.abspath(out / (wanted or video.stem)))
    if out not in result.parents:
        raise UserError(f"{where}: out is {row['out']!r}; give a folder below --out, such as day1/street")
    try:
        settings = replace(settings, fps=rate(fps)) if fps else settings
        settings = replace(settings, audio_track=positive(track)) if track else settings
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{where}: {error} in the columns `fps` and `audio_track`") from error
    return Job(row["video"], video, result, settings)


def write_report(out: Path, failures: Mapping[Job, str]) -> Path:
    """Write out/failures.csv with one line (video, error) per failure, or only the heading if nothing failed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("video", "error"), *((job.name, error) for job, error in failures.items())]
    )
    write_text(out / REPORT, text.getvalue())
    return out / REPORT
