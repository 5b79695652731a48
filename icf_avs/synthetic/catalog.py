"""Catalogs for composed scenes: sound classes of the embedded benchmark, and objects of open-vocabulary scenes.

stamps.csv has one row per usable stamp: path below the stamps folder (stem), class (empty for a distractor),
super-category, stem of its own recording (empty if it has none), role (train | heldout | distractor) and an English
name. Recordings and images that would fit two classes are left out, or the classes are merged.

open_vocab_stamps.csv has one row per stamp with words: stem, words (the usual one first), family (no scene shows two of
a family, because one word could mean both), generic words that name it and others ("bird", "animal"), sound class
(empty for a silent object) and role (a held-out image is of a known class and appears only in tests). Left out are
drawings, glass, fire and smoke (no exact mask) and most images under 60 pixels. Words are nouns that a text encoder
places well: "A pair of open scissors." is "scissors", "A xanthia." is "moth".
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.qt_resource import QtResource

SUPER_CATEGORIES = ("music", "human", "animal", "device")

# Second recordings of the same classes, by other people with other microphones. None is a training recording
# (tests/test_catalog.py correlates the waveforms).
_GCOMPRIS_FARM = {
    "owl": "owl", "pig": "pig", "hen": "chickens", "horse": "horse",
    "cow": "cow", "dog": "dog", "duck": "duck", "sheep": "sheep",
}  # fmt: skip
_GCOMPRIS_MUSIC = {"violin": "violin", "cello": "cello", "cymbal": "cymbal", "drum-kit": "drum_kit"}
_OVOS = ("cow", "dog", "duck", "frog", "horse", "owl", "pig", "rooster", "sheep")


@dataclass(frozen=True)
class SoundClass:
    """A class of the benchmark that can sound.

    Images are stems below the stamps folder. A recording is a reference "source:path" that `read_recording` opens.
    """

    id: int  # 1..len(classes); 0 is the background
    name: str
    super_category: str
    stems: tuple[str, ...]
    heldout_stems: tuple[str, ...]
    recordings: tuple[str, ...]
    cross_recordings: tuple[str, ...]

    @property
    def family(self) -> str:
        """Folder of its images: cats, bovines, birds, percussion."""
        return self.stems[0].rpartition("/")[0]


@dataclass(frozen=True)
class Catalog:
    """The classes whose images and sounds are on this machine, and the distractors, in a fixed order."""

    root: Path
    class_names: tuple[str, ...]  # all classes in id order, alphabetical, WITHOUT the background
    classes: tuple[SoundClass, ...]
    distractors: tuple[str, ...]

    @cached_property
    def _by_name(self) -> dict[str, SoundClass]:
        return {each.name: each for each in self.classes}

    def sound_class(self, name: str) -> SoundClass:
        """Return the class of that name. Raises KeyError."""
        return self._by_name[name]

    def image_path(self, stem: str) -> Path:
        """Return the path of a stem's PNG."""
        return self.root / f"{stem}.png"

    def read_recording(self, reference: str) -> bytes:
        """Return the bytes of the sound file of a SoundClass reference. Raises UserError if its package is damaged."""
        source, _, path = reference.partition(":")
        try:
            if source == "stamps":
                return (self.root / f"{path}.ogg").read_bytes()
            if source == "ovos":
                return (asset_packages.root(asset_packages.OVOS) / path).read_bytes()
            archive, _, member = path.partition(":")
            return _archive(asset_packages.root(asset_packages.GCOMPRIS) / archive)[member]
        except KeyError as error:
            raise UserError(f"{reference} is not in GCompris' data here: another version is installed") from error
        except OSError as error:
            raise UserError(f"cannot read the recording {reference}: {error.strerror}; fetch the data again") from error


_archive = lru_cache(maxsize=4)(QtResource)


def load_catalog(stamps: Path | None = None) -> Catalog:
    """Read stamps.csv and keep what is on this machine; ids and class names do not depend on that.

    `stamps` is the stamps folder (None: `asset_packages.stamps_root()`). Cross recordings are listed if their optional
    packages are present (`asset_packages.fetch_all` downloads them). Raises UserError if most stamps are missing.
    """
    root, rows, available = _read_rows("stamps.csv", stamps)
    names = tuple(sorted({row["class"] for row in rows if row["class"]}))
    classes = []
    for number, name in enumerate(names, start=1):
        class_rows = [row for row in rows if row["class"] == name]
        stems = {role: tuple(row["stem"] for row in available if (row["class"], row["role"]) == (name, role))
                 for role in ("train", "heldout")}  # fmt: skip
        sounds = [row["sound"] for row in class_rows if row["sound"] and (root / f"{row['sound']}.ogg").is_file()]
        recordings = tuple(f"stamps:{stem}" for stem in sounds)
        if stems["train"] and recordings:
            files = stems["train"], stems["heldout"], recordings, _cross_recordings(name)
            classes.append(SoundClass(number, name, class_rows[0]["super_category"], *files))
    _check_complete(root, "images and sounds", len(classes), len(names), "classes")
    distractors = tuple(row["stem"] for row in available if row["role"] == "distractor")
    return Catalog(root, names, tuple(classes), distractors)


def _read_rows(table: str, stamps: Path | None) -> tuple[Path, list[dict[str, str]], list[dict[str, str]]]:
    """Return the stamps folder, all rows of a table, and those whose image exists."""
    root = Path(stamps) if stamps is not None else asset_packages.stamps_root()
    with resources.files(__package__).joinpath(table).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return root, rows, [row for row in rows if (root / f"{row['stem']}.png").is_file()]


def _check_complete(root: Path, what: str, here: int, wanted: int, of: str) -> None:
    if 2 * here < wanted:
        raise UserError(
            f"{root} has {what} of only {here} of {wanted} {of}: pass the stamps folder "
            "of a complete Tux Paint stamps collection with --stamps DIR"
        )


def _cross_recordings(name: str) -> tuple[str, ...]:
    recordings = []
    if asset_packages.find(asset_packages.GCOMPRIS):
        activity = "/gcompris/src/activities"
        if name in _GCOMPRIS_FARM:
            member = f"{activity}/explore_farm_animals/resource/animals/{_GCOMPRIS_FARM[name]}.ogg"
            recordings.append(f"gcompris:explore_farm_animals.rcc:{member}")
        if name in _GCOMPRIS_MUSIC:
            recordings.append(f"gcompris:instruments.rcc:{activity}/instruments/resource/{_GCOMPRIS_MUSIC[name]}.ogg")
    if name in _OVOS and asset_packages.find(asset_packages.OVOS):
        recordings.append(f"ovos:animals/{name}.mp3")
    return tuple(recordings)


# Sound classes that can be held out of training, to measure the benefit of an open vocabulary.
# In the order of the SHA-256 of their names: the first fourteen whose name has a cosine (MiniLM) of at least .75 to a
# name in AudioSet, and the first seven whose name has less than .6 to all of them, which a tagger must predict as
# something else (tests/test_open_vocab_scenes.py repeats the choice).
HELD_OUT_NEAR = (
    "violin", "owl", "duck", "fire-truck", "hammer", "mouse", "scissors",
    "goat", "drum-kit", "rubber-duck", "sheep", "toilet", "frog", "crow",
)  # fmt: skip
HELD_OUT_FAR = ("penguin", "caribou", "camel", "seagull", "dolphin", "gorilla", "chimpanzee")
_ALIKE = ("tom-drum",)  # not by the rule: a word of it has a cosine above .7 to "drum kit", and it looks like one
HELD_OUT = HELD_OUT_NEAR + HELD_OUT_FAR + _ALIKE


@dataclass(frozen=True)
class NamedStamp:
    """One image and its names. The last two fields determine the splits that may show it.

    class_name: of its sound, empty if unknown; test_image: another image of a class known in training; held_out: its
    class must be unknown in training.
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
    """The images on this machine that have words, in a fixed order."""

    root: Path
    stamps: tuple[NamedStamp, ...]

    @cached_property
    def training(self) -> tuple[NamedStamp, ...]:
        """Images that training scenes may show."""
        return tuple(stamp for stamp in self.stamps if not stamp.held_out and not stamp.test_image)

    @cached_property
    def held_out(self) -> tuple[NamedStamp, ...]:
        """All images of classes that are unknown in training."""
        return tuple(stamp for stamp in self.stamps if stamp.held_out)

    @cached_property
    def training_classes(self) -> frozenset[str]:
        """Sound classes that training may use."""
        return frozenset(stamp.class_name for stamp in self.training if stamp.class_name)

    @cached_property
    def training_words(self) -> tuple[str, ...]:
        """Every word that training may query or use as a counterfactual, including generic ones, sorted."""
        return tuple(sorted({word for stamp in self.training for word in stamp.words + stamp.generic}))


def load_open_vocab_stamps(stamps: Path | None = None, held_out: Collection[str] = HELD_OUT) -> OpenVocabCatalog:
    """See `load_catalog`. held_out: sound classes that must be unknown in training."""
    root, rows, available = _read_rows("open_vocab_stamps.csv", stamps)
    _check_complete(root, "images", len(available), len(rows), "objects")
    named_stamps = []
    for row in available:
        words, generic = (tuple(row[column].split(";")) if row[column] else () for column in ("words", "generic"))
        roles = row["role"] == "heldout", row["class"] in held_out
        named_stamps.append(NamedStamp(row["stem"], words, row["family"], generic, row["class"], *roles))
    return OpenVocabCatalog(root, tuple(named_stamps))
