"""`icf evaluate` and `icf probe`: what a model is worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_avs.arg_types import positive, probability, whole
from icf_avs.cli.options import checkpoint, command, device, test_sets


def _evaluate(args: argparse.Namespace) -> None:
    from icf_avs.evaluation.evaluate import evaluate_command
    from icf_avs.evaluation.score_tables import Settings

    settings = Settings(None if args.native else args.size, args.threshold, args.batch_size)
    evaluate_command(
        args.checkpoint, args.data, args.sets, args.out, args.clips, args.seed, settings, args.split, args.device
    )


def _probe(args: argparse.Namespace) -> None:
    from icf_avs.evaluation.robustness.command import probe_command

    probe_command(args.checkpoint, args.data, args.sets, args.out, args.clips, args.seed, args.split, args.device)


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    part = command(
        commands,
        "evaluate",
        _evaluate,
        "score a checkpoint with the true sound, silence, noise and off-screen sounds",
        "  icf evaluate stamps                           # the checkpoint stamps on the default Stamps test sets\n"
        "  icf evaluate runs/stamps/stamps.safetensors --sets ms3 --clips 20\n"
        "  icf evaluate --data AVSBench --sets s4        # a folder with Single-source/, Multi-sources/, AVSS/\n"
        "  icf evaluate --data AVSBench --threshold 0.4 --batch-size 1      # as GAVS does (docs/PROTOCOLS.md)\n\n"
        "Rows of the same checkpoint (the same file), data, test set and protocol are replaced in the table, all\n"
        "others are kept. Other settings have names of their own there: reference-b1-t0.4, s4-512, s4-native, s4-val.",
    )
    checkpoint(part, "checkpoint")
    device(part)
    test_sets(part)
    part.add_argument(
        "--out",
        metavar="CSV",
        type=Path,
        help="table (default: results/stamps.csv; with --data of another origin results/avsbench.csv)",
    )
    part.add_argument(
        "--threshold", metavar="X", type=probability, default=0.5, help="mask: probability above this (default: 0.5)"
    )
    part.add_argument(
        "--batch-size", metavar="N", type=positive, default=4, help="clips in a batch of the reference F (default: 4)"
    )
    size = part.add_mutually_exclusive_group()
    size.add_argument(
        "--size",
        metavar="N",
        type=whole(1, 8192),
        default=224,
        help="pixels of a side of pictures and masks (default: 224)",
    )
    size.add_argument("--native", action="store_true", help="pictures and masks as large as they are")

    part = command(
        commands,
        "probe",
        _probe,
        "tell whether a checkpoint listens: silence, noise, off-screen and shifted sound, blank pictures",
        "  icf probe stamps                              # the checkpoint stamps on the default Stamps test sets\n"
        "  icf probe runs/stamps/stamps.safetensors --sets ms3 --clips 20\n"
        "  icf probe --data AVSBench --sets s4           # a folder with Single-source/, Multi-sources/, AVSS/\n\n"
        "Writes DIR/probe.csv and one page, DIR/probe-CHECKPOINT-DIGEST.html (probe-avsbench... for other sets than\n"
        "Stamps).",
    )
    checkpoint(part, "checkpoint")
    device(part)
    test_sets(part)
    part.add_argument("--out", metavar="DIR", type=Path, help="folder for the table and the page (default: results)")
