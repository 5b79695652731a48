"""`icf words`: list the words that `icf segment --words` accepts."""

from __future__ import annotations

import argparse
from collections import defaultdict

from icf_avs.cli.options import command


def _words(args: argparse.Namespace) -> None:
    from icf_avs.inference.word_prompts import NOT_VISIBLE, known_words

    words = defaultdict(list)
    for word, tags in sorted(known_words().items()):
        words[tags].append(word)
    for tags, names in sorted(words.items(), key=lambda item: (not item[0], item[1])):
        print(f"{', '.join(names)}: {', '.join(tags) or NOT_VISIBLE}")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    text = "list the words that `icf segment --words` can be asked for, and the visible objects that each stands for"
    command(commands, "words", _words, text, "  icf words > words.txt")
