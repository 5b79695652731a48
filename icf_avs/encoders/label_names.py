"""The names behind the outputs of the pretrained classifiers, as data files beside this one.

audioset.csv: index, mid and display name of AudioSet's 527 sound classes (ontology: CC BY 4.0), in the order of
EfficientAT's logits. imagenet.csv: index and names of ImageNet's 1000 classes, in the order of EfficientNet-Lite0's
logits (no background class); synonyms of one class are joined by ", ".
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import resources


def audioset_names() -> tuple[str, ...]:
    """The 527 display names, as "Male speech, man speaking": a comma is part of the name."""
    return _names("audioset.csv")


def imagenet_names() -> tuple[str, ...]:
    """The 1000 classes, each with its synonyms, as "tench, Tinca tinca"; the first is the usual name."""
    return _names("imagenet.csv")


@lru_cache(maxsize=2)
def _names(file: str) -> tuple[str, ...]:
    with resources.files(__package__).joinpath(file).open(encoding="utf-8", newline="") as lines:
        return tuple(row["name"] for row in csv.DictReader(lines))
