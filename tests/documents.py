"""Find, parse and run the ```python``` and ```sh``` blocks of documents.

A line <!-- only read: REASON --> right above a block: its commands are parsed, but not run.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icf_avs.__main__ import main
from icf_avs.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(?:^<!-- only read: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```", re.S | re.M)
_PREFIXES = ("accelerate launch -m icf_avs", ".venv/bin/icf", "python -m icf_avs")


@dataclass(frozen=True)
class Block:
    """Fenced block. line: number in the document, for messages; heading: the last one above."""

    language: str
    code: str
    heading: str
    line: int
    run: bool


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a document, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        headings = re.findall(r"^#+ ([^\n]+)$", text[: match.start()], re.M)
        heading, line = headings[-1] if headings else "", text[: match.start("code")].count("\n") + 1
        found.append(Block(match["language"], match["code"], heading, line, match["why"] is None))
    return found


def commands(code: str) -> list[str]:
    """The lines of a shell block, continued ones joined, without comments."""
    lines = [line.strip() for line in code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def arguments(command: str) -> list[str] | None:
    """Arguments that a command line passes to `icf`; None for another program."""
    for prefix in _PREFIXES:
        command = command.replace(prefix, "icf", 1) if command.startswith(prefix) else command
    name, *rest = shlex.split(command, comments=True)
    return rest if name == "icf" else None


def understood(command: str) -> Namespace | None:
    """Parse a command line of `icf` (SystemExit if invalid); None for another program."""
    words = arguments(command)
    return None if words is None else build_parser().parse_args(words[: (*words, ">").index(">")])


def parsers(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """A parser and those of all its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from parsers(command)


def run_shell(code: str) -> None:
    """Run the lines of a block in the working directory. A failing `icf` line raises AssertionError with its stderr."""
    for line in commands(code):
        words = arguments(line)
        if words is None:
            subprocess.run(["bash", "-ec", line], check=True)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            status = main(words)
        assert status == 0, f"{line}: {printed.getvalue()}"


def run_document(text: str) -> dict[str, Any]:
    """Run all blocks of a document in order; return the shared namespace of its Python blocks."""
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks(text):
        if block.language == "sh" and block.run:
            run_shell(block.code)
        elif block.language == "python" and block.run:
            exec(compile("\n" * (block.line - 1) + block.code, "document", "exec"), names)
    return names


def notebook_code(path: Path) -> str:
    """Code of a notebook, without its `%` commands."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return re.sub(r"^( *)%", r"\1pass  # %", code, flags=re.MULTILINE)
