"""How a command is added, and options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from icf_avs.cli.values import count, positive

SETS = ("s4", "ms3", "avss", "cross")


def command(
    group: argparse._SubParsersAction, name: str, run: Callable, text: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command to its group; `args.run` is the function that does the work."""
    part = group.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    part.set_defaults(run=run)
    return part


def checkpoint(part: argparse.ArgumentParser, name: str, default: str = "stamps") -> None:
    """Add the choice of a model, as an option or an argument; default: what is taken without it, in words."""
    optional = {} if name.startswith("-") else {"nargs": "?"}
    text = "name of a shipped model, a .safetensors file, a folder or user/name on the hub"
    part.add_argument(name, metavar="CHECKPOINT", help=f"{text} (default: {default})", **optional)


def test_sets(part: argparse.ArgumentParser) -> None:
    """Add the choice of test sets and of how many of their clips."""
    part.add_argument("--data", metavar="DIR", type=Path, help="folder of the sets (default: small Stamps test sets)")
    part.add_argument(
        "--sets", nargs="+", choices=SETS, help="test sets (default: s4 ms3 cross; with --data, all there)"
    )
    part.add_argument("--clips", metavar="N", type=positive, help="take only the first N clips of each set")
    part.add_argument("--seed", type=count, default=0, help="seed of noise and off-screen donors (default: 0)")


def stamps(part: argparse.ArgumentParser) -> None:
    """Add the folder that pictures and sounds come from."""
    part.add_argument("--stamps", metavar="DIR", type=Path, help="Tux Paint stamps folder (default: fetched)")
