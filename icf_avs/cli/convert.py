"""`icf convert`: write results in formats of other tools."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from icf_avs.cli.options import command

FORMATS = ("coco", "palette", "tracks", "srt")


def _convert(args: argparse.Namespace) -> None:
    from icf_avs.output.convert import convert

    for to in dict.fromkeys(args.to):
        written = convert(args.folder, to)
        frames = written.with_name("frames")
        print(f"{written} and {frames}{os.sep}" if to == "coco" and frames.is_dir() else written)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command."""
    part = command(
        commands, "convert", _convert,
        "write the result of `icf segment` in formats that other tools read",
        "  icf convert masks/street --to coco\n"
        "  icf convert masks/street --to tracks palette srt\n\n"
        "Written into the same folder:\n"
        "  coco        coco.json     a COCO data set, for pycocotools and labelling tools, with its images in frames/\n"
        "  palette     objects/      indexed PNG, an index an object, as DAVIS has them\n"
        "  tracks      tracks.json   objects over time: boxes, masks, scores\n"
        "  srt         sounds.srt    subtitles: what sounds when\n\n"
        "tracks and palette need SciPy: pip install 'icf-avs[track]'",
    )  # fmt: skip
    part.add_argument("folder", metavar="FOLDER", type=Path, help="what `icf segment` wrote for a video: OUT/NAME")
    part.add_argument(
        "--to", nargs="+", choices=FORMATS, required=True, metavar="FORMAT", help=f"one or more of {', '.join(FORMATS)}"
    )
