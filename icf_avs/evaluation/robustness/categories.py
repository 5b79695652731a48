"""The super-category of a class of sounds: music, human, animal or device, as in AVSBench-Robust (arXiv 2502.00358).

super_categories.csv holds the 70 classes of AVSS and the 23 categories of S4; those of our own Stamps classes stand in
their catalogue. Where AVSBench-Robust names a class its choice is kept (a computer keyboard is a device); it does so
for S4 and MS3 only, the rest of AVSS is not from there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache
from importlib import resources

_FILES = (("icf_avs.evaluation.robustness", "super_categories.csv"), ("icf_avs.synthetic", "stamps.csv"))


@cache
def _table() -> dict[str, str]:
    table: dict[str, str] = {}
    for package, name in _FILES:
        lines = resources.files(package).joinpath(name).read_text(encoding="utf-8").splitlines()
        table |= {row["class"]: row["super_category"] for row in csv.DictReader(lines) if row["class"]}
    return table


def super_categories(classes: Iterable[str]) -> frozenset[str] | None:
    """The super-categories of some classes, or None if one of them is in no table."""
    table, names = _table(), set(classes)
    return frozenset(table[name] for name in names) if names <= table.keys() else None
