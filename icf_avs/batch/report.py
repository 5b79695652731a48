"""What failed, as a table beside the results."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from icf_avs.atomic_io import write_text
from icf_avs.batch.job import Job

REPORT = "failures.csv"


def write_report(out: Path, failures: Mapping[Job, str]) -> Path:
    """Write out/failures.csv: a line (video, error) for each, the heading alone where nothing failed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("video", "error"))
    table.writerows((job.name, error) for job, error in failures.items())
    write_text(out / REPORT, text.getvalue())
    return out / REPORT
