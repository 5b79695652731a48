"""`python -m research`: reproduction study, its summary, open-vocabulary study (docs/REPRODUCTION.md, NATURAL.md)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from icf_avs.arg_types import positive, whole
from icf_avs.atomic_io import check_file, check_folder
from icf_avs.cli.options import Parser, command, device, verbosity
from icf_avs.console import NORMAL, set_verbosity
from icf_avs.errors import UserError


def _reproduction(args: argparse.Namespace) -> None:
    check_folder(args.out)
    check_file(args.results, "--results")
    from research.reproduction import reproduction_command

    reproduction_command(args)


def _natural(args: argparse.Namespace) -> None:
    check_folder(args.out or Path("runs/natural"))
    check_file(args.results, "--results")
    from research.natural import natural_command

    natural_command(args)


def _onsets(args: argparse.Namespace) -> None:
    check_file(args.results, "--results")
    from research.onsets import onsets_command

    onsets_command(args)


def _summary(args: argparse.Namespace) -> None:
    check_folder(args.pictures, "--pictures")
    from research.summary import summary_command

    summary_command(args.results, args.pictures)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands. `args.run` is the function that runs the command."""
    parser = Parser(prog="python -m research", description="What each part of the method is worth.")
    verbosity(parser, NORMAL)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    steps = whole(1, 10**8)
    part = command(
        commands,
        "reproduction",
        _reproduction,
        "train and score the rows of the paper's tables 2 and 3 and figure 5, and ours",
        "  python -m research reproduction               # all that results/reproduction.csv lacks\n"
        "  python -m research reproduction --rows baseline all --seeds 1 --steps 20 --clips 4 --results try.csv\n\n"
        "Rows: research/rows.py. Interrupted, it goes on where each run stopped. Each finished run is a line.",
    )
    part.add_argument("--rows", metavar="ROW", nargs="+", help="only these rows (default: all)")
    part.add_argument(
        "--seeds", metavar="N", type=whole(1, 1000), default=3, help="seeds 0 to N-1 of each row (default: 3)"
    )
    part.add_argument("--steps", metavar="N", type=steps, default=600, help="steps of a run (default: 600)")
    part.add_argument("--clips", metavar="N", type=positive, default=60, help="clips of each test set (default: 60)")
    part.add_argument("--jobs", metavar="N", type=whole(1, 1000), default=os.cpu_count() or 1, help="processes (cores)")
    _places(part, "reproduction")
    device(part)

    part = command(
        commands,
        "natural",
        _natural,
        "score the open vocabulary on composed scenes of kinds that training knows and does not know",
        "  python -m research natural                    # all that results/natural.csv lacks\n"
        "  python -m research natural --rows shipped     # the shipped checkpoint alone, in a minute\n\n"
        "Rows: shipped; open, open-mit, open-baseline: the recipe natural, whole and without parts, kept from the\n"
        "kinds that are tested, seed 0 alone; and these cut short: all, mit, baseline. Interrupted, it goes on later.",
    )
    part.add_argument("--rows", metavar="ROW", nargs="+", help="only these rows, anew (default: all that lack)")
    part.add_argument(
        "--split", choices=("test", "val"), default="test", help="choose on val, score on test (default: test)"
    )
    part.add_argument("--seeds", metavar="N", type=whole(1, 1000), help="seeds 0 to N-1 of each row (default: 3)")
    part.add_argument("--steps", metavar="N", type=steps, help="steps of a run (default: 300)")
    _places(part, "natural", default=False)
    device(part)

    part = command(
        commands,
        "onsets",
        _onsets,
        "what each part of the rule that reads words from a tagger is worth, on sounds that begin and end",
        "  python -m research onsets",
    )
    part.add_argument("--split", choices=("test", "val"), default="test", help="as of natural (default: test)")
    part.add_argument("--clips", metavar="N", type=positive, default=6, help="clips of each class (default: 6)")
    part.add_argument("--results", metavar="CSV", type=Path, default=Path("results/onsets.csv"), help="(%(default)s)")

    part = command(
        commands,
        "summary",
        _summary,
        "mean, deviation and paired tests of the runs in the table, and the curves of figure 5",
        "  python -m research summary",
    )
    part.add_argument(
        "--results", metavar="CSV", type=Path, default=Path("results/reproduction.csv"), help="table (%(default)s)"
    )
    part.add_argument("--pictures", metavar="DIR", type=Path, default=Path("docs"), help="folder of the plots (docs)")
    return parser


def _places(part: argparse.ArgumentParser, name: str, default: bool = True) -> None:
    out, results = Path("runs") / name, Path("results") / f"{name}.csv"
    part.add_argument(
        "--out", metavar="DIR", type=Path, default=out if default else None, help=f"folder of the runs ({out})"
    )
    part.add_argument("--results", metavar="CSV", type=Path, default=results, help=f"table ({results})")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or 2 for an error the user can fix."""
    args = build_parser().parse_args(argv)
    set_verbosity(args.verbosity)
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
