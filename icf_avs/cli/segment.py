"""`icf segment` and `icf demo`: segment videos."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from icf_avs.arg_types import positive, probability, rate
from icf_avs.atomic_io import check_folder
from icf_avs.cli.options import checkpoint, command, device
from icf_avs.errors import UserError


def _segment(args: argparse.Namespace) -> None:
    if args.weights_dir is not None:
        _set_weights_dir(args.weights_dir, args.checkpoint)
    if args.manifest is not None:
        return _segment_manifest(args)
    if not args.videos:
        raise UserError("no video to segment; name one or more, or a table of them: --manifest videos.csv")
    if args.jobs or args.ray:
        raise UserError("--jobs and --ray go with --manifest; name the videos in a CSV file with a column `video`")
    check_folder(args.out)
    from icf_avs.inference.command import segment_command

    segment_command(
        args.videos, args.out, args.checkpoint, args.fps, args.threshold, args.semantic, args.audio_track, args.words,
        args.device,
    )  # fmt: skip


def _set_weights_dir(folder: Path, checkpoint: str | None) -> None:
    if not folder.is_dir():
        raise UserError(f"--weights-dir {folder}: no such folder; name the folder with the weights")
    from icf_avs.checkpoint.serialization import read_config
    from icf_avs.checkpoint.source import find_checkpoint
    from icf_avs.networks.build import reads_released_weights

    path, name = find_checkpoint(checkpoint)
    if not reads_released_weights(read_config(path)):
        raise UserError(f"--weights-dir {folder}: checkpoint {name} needs no weights from there; leave it out")
    os.environ["ICF_WEIGHTS_DIR"] = str(folder)


def _segment_manifest(args: argparse.Namespace) -> None:
    if args.videos:
        raise UserError(f"{args.videos[0]}: give videos or --manifest, not both; a manifest can list it too")
    check_folder(args.out)
    if args.ray is not None and args.device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {args.device!r}: a Ray cluster assigns its GPUs; choose cuda or cpu")
    from icf_avs.batch.command import corpus_command
    from icf_avs.batch.job import build_settings
    from icf_avs.device import find_device

    if args.ray is None:
        find_device(args.device)
    settings = build_settings(
        args.checkpoint, args.fps, args.threshold, args.semantic, args.audio_track, args.words, args.device
    )
    corpus_command(args.manifest, args.out, settings, args.jobs, args.ray)


def _demo(args: argparse.Namespace) -> None:
    check_folder(args.out)
    from icf_avs.demo import demo_command

    demo_command(args.out, args.device)


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    part = command(
        commands,
        "segment",
        _segment,
        "write one mask a second of what sounds in each video, an overlay video and a contact sheet",
        "  icf segment street.mp4 --out masks\n"
        "  icf segment *.mp4 --out masks --fps 4      # four masks a second\n"
        "  icf segment holiday --out masks            # all videos in a folder\n"
        "  icf segment street.mp4 --out masks --words 'barking, car horn'\n"
        "  icf segment street.mp4 --out masks --semantic --checkpoint runs/avss-pvt/avss-pvt.safetensors\n"
        "  icf segment --manifest videos.csv --out masks --jobs 8\n"
        "  icf segment --out masks -- -Ab3.mp4        # a name that begins with a dash\n\n"
        "Each video gets a folder masks/NAME with masks/*.png, overlay.mp4, sheet.png and segmentation.json.\n"
        "`icf convert masks/NAME --to ...` writes COCO, indexed PNG, tracks or subtitles from it.",
    )
    part.add_argument(
        "videos", metavar="VIDEO", type=Path, nargs="*", help="a video file with sound, or a folder of them"
    )
    part.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    part.add_argument("--fps", type=rate, default=1.0, help="masks a second (default: 1)")
    checkpoint(part, "--checkpoint")
    device(part)
    part.add_argument("--threshold", type=probability, default=0.5, help="probability of the pixels (default: 0.5)")
    part.add_argument("--semantic", action="store_true", help="predict the class of each pixel too (classes/*.png)")
    part.add_argument(
        "--audio-track", metavar="N", type=positive,
        help="use the N-th audio track (default: the first that the file marks as default, else the one that a "
        "player would choose)",
    )  # fmt: skip
    part.add_argument(
        "--words", metavar="WORDS",
        help="segment only what makes these sounds, in a checkpoint with a sound tagger (`icf words` lists them): "
        "'barking, car horn'",
    )  # fmt: skip
    part.add_argument(
        "--weights-dir", metavar="DIR", type=Path,
        help="folder with the weights released with encoders (default: ICF_WEIGHTS_DIR, else downloaded once)",
    )  # fmt: skip
    many = part.add_argument_group("many videos")
    many.add_argument(
        "--manifest", metavar="CSV", type=Path,
        help="a table with a column video (paths relative to it) and, where wanted, out (the folder's name), fps, "
        "audio_track; what is done already is left, what fails is tried twice and then listed in DIR/failures.csv",
    )  # fmt: skip
    many.add_argument("--jobs", metavar="N", type=positive, help="processes of one thread each (default: cores)")
    many.add_argument(
        "--ray", metavar="ADDRESS", help="work on this Ray cluster, or local (pip install 'icf-avs[ray]')"
    )

    part = command(
        commands,
        "demo",
        _demo,
        "make a few videos whose masks are known, segment them and show the scores",
        "  icf demo\n  icf demo --out my_demo",
    )
    part.add_argument("--out", metavar="DIR", type=Path, default=Path("demo_out"), help="folder (default: demo_out)")
    device(part)
