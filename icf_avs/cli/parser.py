"""The command-line parser with all commands, in the order in which a user needs them."""

from __future__ import annotations

import argparse

from icf_avs import __version__
from icf_avs.cli import compare, convert, data, evaluate, export, live, segment, serve, train, words
from icf_avs.cli.options import Parser, verbosity
from icf_avs.console import NORMAL


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands and options. `args.run` is the function that runs the command."""
    parser = Parser(
        prog="icf",
        description="Segment, in every frame of a video, the pixels of the objects that sound.",
        epilog="Start with `icf demo`. Each command explains itself: `icf segment --help`.",
    )
    parser.add_argument("--version", action="version", version=f"icf {__version__}", help="print the version and stop")
    verbosity(parser, NORMAL)
    parser.renamed = {"probe": "`icf evaluate --robustness`"}
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for part in (segment, live, words, convert, serve, train, compare, evaluate, export, data):
        part.add(commands)
    return parser
