"""`icf completion`: what a shell needs to complete commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from icf_avs.cli.options import command
from icf_avs.errors import UserError


def _completion(args: argparse.Namespace) -> None:
    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError("completion needs shtab: pip install 'icf-avs[completion]'") from None
    parser = args.parser
    for part in _parsers(parser):
        for action in part._actions:
            if action.type is Path:
                action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
    print(shtab.complete(parser, args.shell))


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from _parsers(part)


def add(commands: argparse._SubParsersAction, parser: argparse.ArgumentParser) -> None:
    """Add this command, which completes those of `parser`."""
    part = command(
        commands,
        "completion",
        _completion,
        "print a script by which the shell completes commands, options and files",
        "  icf completion bash > ~/.local/share/bash-completion/completions/icf\n"
        "  icf completion zsh > ~/.zfunc/_icf          # with fpath+=~/.zfunc before compinit in ~/.zshrc\n\n"
        "Needs shtab: pip install 'icf-avs[completion]'",
    )
    part.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")
    part.set_defaults(parser=parser)
