"""`icf evaluate`: score a model and test whether it uses the audio."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_avs.arg_types import positive, probability, whole
from icf_avs.atomic_io import check_file, check_folder
from icf_avs.cli.options import checkpoint, command, device, test_sets
from icf_avs.errors import UserError


def _evaluate(args: argparse.Namespace) -> None:
    from icf_avs.device import find_device
    from icf_avs.evaluation.command import evaluate_command, robustness_command
    from icf_avs.evaluation.test_sets import load_task
    from icf_avs.inference import pretrained
    from icf_avs.score_tables import ScoringSettings, check_tables

    settings = ScoringSettings(None if args.native else args.size, args.threshold, args.batch_size)
    if args.robustness and settings != ScoringSettings():
        raise UserError("--robustness takes no --threshold, --batch-size, --size or --native; leave them out")
    if args.out is None:
        check_folder(Path("results"))
    elif args.robustness:
        check_file(args.out)
    else:
        check_tables(args.out)
    place = find_device(args.device)
    model = pretrained.load(args.checkpoint, place)
    task = load_task(model.predictor, model.name, args.checkpoint, args.data, args.sets, args.split, place)
    if args.robustness:
        robustness_command(task, args.out, args.clips, args.seed)
    else:
        evaluate_command(task, args.out, args.clips, args.seed, settings)


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    part = command(
        commands, "evaluate", _evaluate,
        "score a checkpoint with the true sound, silence, noise and off-screen sounds, and its robustness",
        "  icf evaluate stamps                           # the checkpoint stamps on the default Stamps test sets\n"
        "  icf evaluate runs/stamps/stamps.safetensors --sets ms3 --clips 20\n"
        "  icf evaluate --data AVSBench --sets s4        # a folder with Single-source/, Multi-sources/, AVSS/\n"
        "  icf evaluate --robustness --clips 20          # does the model use the audio?\n"
        "  icf evaluate --data AVSBench --threshold 0.4 --batch-size 1      # as GAVS does (docs/PROTOCOLS.md)\n\n"
        "Rows of the same checkpoint (the same file), data, test set and protocol are replaced in the table, all\n"
        "others are kept. Other settings have names of their own there: reference-b1-t0.4, s4-512, s4-native, s4-val.",
    )  # fmt: skip
    option = part.add_argument
    checkpoint(part, "checkpoint")
    device(part)
    test_sets(part)
    option(
        "--robustness",
        action="store_true",
        help="score silence, noise, off-screen and shifted sound and blank frames, and say whether the model uses the "
        "audio",
    )
    option(
        "--out",
        metavar="CSV",
        type=Path,
        help="table (default: results/stamps.csv; with --data of another origin results/avsbench.csv; with "
        "--robustness results/probe.csv or probe-avsbench.csv)",
    )
    option(
        "--threshold", metavar="X", type=probability, default=0.5, help="mask: probability above this (default: 0.5)"
    )
    option(
        "--batch-size", metavar="N", type=positive, default=4, help="clips in a batch of the reference F (default: 4)"
    )
    size = part.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        metavar="N",
        type=whole(1, 8192),
        default=224,
        help="pixels of a side of frames and masks (default: 224)",
    )
    size.add_argument("--native", action="store_true", help="frames and masks at their own size")
