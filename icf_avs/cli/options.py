"""Functions that add a command, and options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from icf_avs.arg_types import count, positive
from icf_avs.console import QUIET, VERBOSE
from icf_avs.errors import UserError, did_you_mean

SETS = ("s4", "ms3", "avss", "cross")


class Parser(argparse.ArgumentParser):
    """Argument parser that accepts its own usage line and reports errors in one line.

    After an option with several choices (`--sets s4 ms3`), a word that is none of them counts as a positional argument.
    Plain argparse would refuse it as an invalid choice. renamed: former options and commands -> current names.
    """

    renamed: Mapping[str, str] = MappingProxyType({})

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        written = [word for word in words if not word.startswith("-")]
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        for word in written[:1] if groups else takewhile(lambda word: word != "--", words):
            if (name := self.renamed.get(word.partition("=")[0])) is not None:
                self.exit(2, f"icf: error: {word.partition('=')[0]} is now {name}\n")
        for group in groups:
            if not words:
                self.print_help()
                self.exit()
            if written and written[0] not in group.choices:
                hint = did_you_mean(written[0], group.choices)
                self.exit(2, f"icf: error: no command {written[0]!r}{hint} `{self.prog} --help` lists them\n")
        if any(not action.option_strings for action in self._actions):
            for action in self._actions:
                if action.nargs == "+" and action.choices:
                    words = _argument_first(words, action)
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
            hint = did_you_mean(option, self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint.rstrip(';')}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and exit with code 2."""
        line = UserError(f"{message}{'' if message[-1] == '?' else ';'} see `{self.prog} --help`")
        self.exit(2, f"{self.prog}: error: {line}\n")


def _argument_first(words: list[str], option: argparse.Action) -> list[str]:
    """Move the first word after the choices of `option` to the front, unless the words start with a positional."""
    at = next((i for i, word in enumerate(words) if word in option.option_strings), len(words)) + 1
    end = next((i for i in range(at, len(words)) if words[i] not in option.choices), len(words))
    if end in (at, len(words)) or words[end].startswith("-") or not words[0].startswith("-"):
        return words
    return [words[end], *words[:end], *words[end + 1 :]]


def command(group: argparse._SubParsersAction, name: str, run: Callable, text: str, examples: str) -> Parser:
    """Add a command to its group. `args.run` is the function that runs it."""
    part = group.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    part.set_defaults(run=run)
    verbosity(part, default=argparse.SUPPRESS)  # keep -v and -q given before the command
    return part


def verbosity(part: argparse.ArgumentParser, default: int | str) -> None:
    """Add `-v` and `-q`."""
    group = part.add_mutually_exclusive_group()
    for short, name, level, text in (
        ("-v", "--verbose", VERBOSE, "say more: model, device, times, and where an error arose"),
        ("-q", "--quiet", QUIET, "no progress bars and notes, only results and errors"),
    ):
        group.add_argument(short, name, dest="verbosity", action="store_const", const=level, default=default, help=text)


def checkpoint(part: argparse.ArgumentParser, name: str) -> None:
    """Add the choice of a model, as an option or a positional argument."""
    optional = {} if name.startswith("-") else {"nargs": "?"}
    text = "natural or stamps, a .safetensors file, a folder or user/name on the hub"
    part.add_argument(name, metavar="CHECKPOINT", help=f"{text} (default: natural)", **optional)


def device(part: argparse.ArgumentParser) -> None:
    """Add the choice of the compute device."""
    part.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:N or mps (default: auto)"
    )


def test_sets(part: argparse.ArgumentParser) -> None:
    """Add the options for test sets, split, number of clips and seed."""
    part.add_argument("--data", metavar="DIR", type=Path, help="folder of the sets (default: small Stamps test sets)")
    part.add_argument(
        "--sets", nargs="+", choices=SETS, help="test sets (default: s4 ms3 cross; with --data, all there)"
    )
    part.add_argument(
        "--split", choices=("test", "val"), default="test", help="choose on val, score on test (default: test)"
    )
    part.add_argument("--clips", metavar="N", type=positive, help="take only the first N clips of each set")
    part.add_argument(
        "--seed", metavar="N", type=count, default=0, help="seed of noise and off-screen donors (default: 0)"
    )


def stamps(part: argparse.ArgumentParser) -> None:
    """Add the folder of images and sounds."""
    part.add_argument("--stamps", metavar="DIR", type=Path, help="Tux Paint stamps folder (default: fetched)")
