"""Which sounds belong to which pictures: by the names of their classes, and by a table where those differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path

from icf_avs.avsbench.metadata import check_columns, read_table
from icf_avs.errors import UserError


def plain(name: str) -> str:
    """The name of a class in the set: "Fire_truck" -> "fire-truck". AVSS tables join names by "_"."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")


def match_classes(pictures: Collection[str], sounds: Collection[str], mapping: Path | None = None) -> dict[str, str]:
    """Sound class -> name of the set's class, for the sounds that some picture class makes.

    mapping  a CSV table with the columns picture and sound, which goes before equal names; an empty picture leaves the
    sound out. Several sounds may belong to one picture class, but not the other way: in a picture with both, there
    would be no right answer. Raises UserError for that, for names that do not exist, and where nothing matches.
    """
    names = {plain(name) for name in pictures} - {""}
    found = {sound: plain(sound) for sound in sounds if plain(sound) in names}
    told: dict[str, str] = {}
    rows = read_table(mapping, ("picture", "sound")) if mapping else []
    check_columns(mapping, rows, ("picture", "sound"))
    for number, row in enumerate(rows, 2):
        picture, sound = row["picture"].strip(), row["sound"].strip()
        for name, known, what in ((picture, pictures, "picture"), (sound, sounds, "sound")):
            if name not in known and not (name == "" and what == "picture"):
                near = difflib.get_close_matches(name, known, 3, 0.5) or sorted(known)[:5]
                raise UserError(
                    f"{mapping}, line {number}: no {what} class {name!r}; there are {', '.join(near)}, ... (spelt so)"
                )
        if told.setdefault(sound, plain(picture)) != plain(picture):
            raise UserError(
                f"{mapping}, line {number}: {sound} belongs to {told[sound]} and to {picture}; in a picture with both "
                "it could not be told what sounds, so choose one"
            )
    found = {sound: name for sound, name in (found | told).items() if name}
    if not found:
        raise UserError(
            f"no class of the pictures ({_some(pictures)}) has the name of a class of the sounds ({_some(sounds)}); "
            "say which belong together with --mapping, a CSV table with the columns picture and sound"
        )
    return found


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
