"""`icf export`: export a model for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_avs.cli.options import command


def _export(args: argparse.Namespace) -> None:
    from icf_avs.export.export_model import export_command

    export_command(args.checkpoint, args.out, args.format)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command."""
    part = command(
        commands, "export", _export,
        "write a checkpoint as ONNX or as a torch.export program, with its model card",
        "  icf export stamps --out stamps-onnx\n"
        "  icf export runs/s4-pvt/s4-pvt.safetensors --out s4 --format torch\n\n"
        "The file takes any number of clips and frames. It is run once and compared with the model. natural becomes\n"
        "two files, one from sound to tags and one from frames and tags to masks. The card shows the scores in\n"
        "results/*.csv. examples/onnx_segment.py runs the files without icf-avs.",
    )  # fmt: skip
    option = part.add_argument
    option(
        "checkpoint",
        metavar="CHECKPOINT",
        help="stamps, natural, a .safetensors file, a folder or user/name on the hub",
    )
    option("--out", metavar="DIR", type=Path, required=True, help="folder for the model and its README.md")
    option("--format", choices=("onnx", "torch"), default="onnx", help="file format (default: onnx)")
