"""`icf report RUN`: read the folder of a run, write the page."""

from __future__ import annotations

from pathlib import Path

from icf_avs.output.writable import check_file
from icf_avs.results import write_whole
from icf_avs.run_report.page import page
from icf_avs.run_report.record import read_run


def run_report_command(folder: Path, out: Path | None) -> None:
    """Write the page on the run in `folder` to `out` (None: report.html there). Raises UserError as `read_run` does."""
    out = out or folder / "report.html"
    if folder.is_dir():
        check_file(out)
    write_whole(out, page(read_run(folder)))
    print(f"wrote {out}")
