"""The objects of open-vocabulary scenes: every photographic stamp with the English words that name it.

open_vocab_stamps.csv has one row a stamp: its path below the stamps folder (stem), its words (the usual one first), its
family (no scene shows two of a family, because one word could mean both), generic words that name it and others
("bird", "animal"), its sound class (empty for a silent object) and its role (train | heldout, as in stamps.csv: a
held-out image is of a known class, and tests alone show it).

The images are those of stamps.csv, and some that it lacks because their sound is missing, shared or unclear.
Photographs were told from drawings by eye, as no simple statistic separates the two. Glass, fire and smoke are left
out, having no exact mask, and so are most images whose long side is under 60 pixels. Texts are cut down by hand to a
noun that a text encoder places well: "A pair of open scissors." is "scissors", "A xanthia." is "moth".
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.synthetic import packages

# Sound classes that can be held out of training, to measure what open vocabulary is worth.
# Sorted by the SHA-256 of their names, these are the first fourteen whose name is within .75 (cosine, MiniLM) of a name
# in AudioSet, and the first seven whose name is further than .6 from all of them, which a tagger cannot but hear as
# something else (tests/test_open_vocab_scenes.py repeats the choice).
HELD_OUT_NEAR = (
    "violin", "owl", "duck", "fire-truck", "hammer", "mouse", "scissors",
    "goat", "drum-kit", "rubber-duck", "sheep", "toilet", "frog", "crow",
)  # fmt: skip
HELD_OUT_FAR = ("penguin", "caribou", "camel", "seagull", "dolphin", "gorilla", "chimpanzee")
_ALIKE = ("tom-drum",)  # not by the rule: it comes under a word within .7 of "drum kit", and looks like one
HELD_OUT = HELD_OUT_NEAR + HELD_OUT_FAR + _ALIKE


@dataclass(frozen=True)
class NamedStamp:
    """One picture and what it may be called. Splits it may be seen in follow from the last two.

    class_name: of its sound, empty where none is known; test_image: another image of a class that training knows;
    held_out: training must not know what this is.
    """

    stem: str
    words: tuple[str, ...]
    family: str
    generic: tuple[str, ...]
    class_name: str
    test_image: bool
    held_out: bool

    @property
    def word(self) -> str:
        """The usual word."""
        return self.words[0]


@dataclass(frozen=True)
class OpenVocabCatalog:
    """The pictures on this machine that have words, in a fixed order."""

    root: Path
    stamps: tuple[NamedStamp, ...]

    @cached_property
    def training(self) -> tuple[NamedStamp, ...]:
        """Pictures that training scenes may show."""
        return tuple(stamp for stamp in self.stamps if not stamp.held_out and not stamp.test_image)

    @cached_property
    def held_out(self) -> tuple[NamedStamp, ...]:
        """All pictures of what training does not know."""
        return tuple(stamp for stamp in self.stamps if stamp.held_out)

    @cached_property
    def training_classes(self) -> frozenset[str]:
        """Sound classes that training may use."""
        return frozenset(stamp.class_name for stamp in self.training if stamp.class_name)

    @cached_property
    def training_words(self) -> tuple[str, ...]:
        """Every word that training may ask for or take as a counterfactual, generic ones too, sorted."""
        own = {word for stamp in self.training for word in stamp.words}
        return tuple(sorted(own | {word for stamp in self.training for word in stamp.generic}))


def load_open_vocab_catalog(stamps: Path | None = None, held_out: Collection[str] = HELD_OUT) -> OpenVocabCatalog:
    """Read the facts and keep what is on this machine; `stamps` is the stamps folder (None: packages.stamps_root()),
    held_out: sound classes that training must not know.

    Raises UserError if most of the pictures are missing.
    """
    root = Path(stamps) if stamps is not None else packages.stamps_root()
    with resources.files(__package__).joinpath("open_vocab_stamps.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    here = tuple(_stamp(row, held_out) for row in rows if (root / f"{row['stem']}.png").is_file())
    if 2 * len(here) < len(rows):
        raise UserError(
            f"{root} has only {len(here)} of {len(rows)} pictures: pass the stamps folder of a complete Tux Paint "
            "stamps collection with --stamps DIR"
        )
    return OpenVocabCatalog(root, here)


def _stamp(row: dict[str, str], held_out: Collection[str]) -> NamedStamp:
    generic = tuple(row["generic"].split(";")) if row["generic"] else ()
    words = tuple(row["words"].split(";"))
    return NamedStamp(
        row["stem"],
        words,
        row["family"],
        generic,
        row["class"],
        test_image=row["role"] == "heldout",
        held_out=row["class"] in held_out,
    )
