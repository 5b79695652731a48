"""`icf compare`: compare training runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_avs.cli.options import command


def _compare(args: argparse.Namespace) -> None:
    from icf_avs.training.compare import compare_command

    compare_command(args.runs, args.out)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command."""
    part = command(
        commands, "compare", _compare,
        "show training runs beside each other: scores, the settings in which they differ, curves",
        "  icf compare runs/stamps-query runs/stamps-query-interventions\n"
        "  icf compare runs/* --out compare.html     # the table and a plot of every logged term\n\n"
        "A run is a folder of `icf train`, finished or not.",
    )  # fmt: skip
    part.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of runs")
    part.add_argument("--out", metavar="FILE", type=Path, help="write a page (.html) with table and curves")
