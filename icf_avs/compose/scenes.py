"""What is in a composed clip: one picture, and which of its classes sound with which recordings at what seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icf_avs.compose.pictures import Picture
from icf_avs.compose.sounds import Recording
from icf_avs.errors import UserError

SECONDS = 5
SPLITS = ("train", "val", "test")
_ALWAYS = 0.5  # share of the sources that sound all the time
_ANOTHER = 0.5  # how often one more source sounds, where the picture has one


@dataclass(frozen=True)
class Source:
    """A class that sounds in seconds [start, end). recordings: in the order in which they are tried."""

    kind: str
    recordings: tuple[Recording, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Scene:
    """seed: of all that is drawn when it is rendered."""

    name: str
    split: str
    picture: Picture
    sources: tuple[Source, ...]
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Material:
    """The pictures and recordings of one split. kinds_of: names of the set's classes by the pictures' spelling."""

    pictures: Sequence[Picture]
    recordings: Mapping[str, Sequence[Recording]]  # by class of the set
    kinds_of: Mapping[str, str]

    def sounding(self, picture: Picture) -> list[str]:
        """Classes of a picture that can sound, in alphabetical order."""
        return sorted({self.kinds_of[kind] for kind in picture.kinds if kind in self.kinds_of} & set(self.recordings))

    @cached_property
    def by_kind(self) -> dict[str, list[Picture]]:
        """Pictures in which a class can sound."""
        found: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures:
            for kind in self.sounding(picture):
                found[kind].append(picture)
        return dict(sorted(found.items()))


def plan(material: Material, split: str, count: int, sources: int, seed: int) -> list[Scene]:
    """So many clips, all classes by turns, with at most `sources` sounding classes each: a function of the arguments.

    Raises UserError where the split has no class with both pictures and sounds.
    """
    pools = material.by_kind
    if count and not pools:
        raise UserError(
            f"no class has both pictures and sounds left for the split {split}; give more of them (three of a class "
            f"are one for each split), or ask for --{split} 0"
        )
    scenes = []
    for index in range(count):
        key = (seed, SPLITS.index(split), index)
        rng = np.random.default_rng(key)
        turn, place = divmod(index, len(pools))
        order = np.random.default_rng([seed, SPLITS.index(split), turn, 1]).permutation(sorted(pools)).tolist()
        first = order[place]
        picture = pools[first][rng.integers(len(pools[first]))]
        others = [kind for kind in material.sounding(picture) if kind != first]
        kinds = [first]
        while others and len(kinds) < sources and rng.random() < _ANOTHER:
            kinds.append(others.pop(rng.integers(len(others))))
        chosen = tuple(_source(kind, material.recordings[kind], rng) for kind in kinds)
        scenes.append(Scene(f"{split}-{index:06d}", split, picture, chosen, key))
    return scenes


def _source(kind: str, recordings: Sequence[Recording], rng: np.random.Generator) -> Source:
    order = tuple(recordings[i] for i in rng.permutation(len(recordings))[:8])
    if rng.random() < _ALWAYS:
        return Source(kind, order, 0, SECONDS)
    start = int(rng.integers(SECONDS - 1))
    return Source(kind, order, start, int(rng.integers(start + 1, SECONDS + 1)))
