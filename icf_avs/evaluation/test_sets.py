"""What `icf evaluate` scores: a checkpoint, on the test sets in a folder or on the default ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from icf_avs.atomic_io import cache_dir
from icf_avs.datasets.custom_dataset import is_custom_dataset
from icf_avs.datasets.layouts import TABLES, find_table, is_stamps, read_set
from icf_avs.datasets.video_clip import ClipRecord
from icf_avs.errors import UserError
from icf_avs.provenance import short_digest
from icf_avs.score_tables import Scored

if TYPE_CHECKING:
    from icf_avs.mask_predictor import MaskPredictor

Split = Literal["test", "val"]
DEFAULT_SETS = ("s4", "ms3", "cross")  # AVSS holds the scenes of the first two again
FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "AVSS", "cross": "Cross"}
OWN = "own"  # a set of one's own is the folder itself


@dataclass(frozen=True)
class Task:
    """A model and the clips to score it on: of the split, by the name of their set; root: their folder."""

    predictor: MaskPredictor
    device: torch.device
    scored: Scored
    root: Path
    split: Split
    is_stamps: bool
    records: dict[str, list[ClipRecord]]

    def label(self, name: str) -> str:
        """What a set is called in tables."""
        return name if self.split == "test" else f"{name}-{self.split}"


def open_task(
    predictor: MaskPredictor, name: str, path: str | None, data: Path | None, sets: Sequence[str] | None,
    split: Split = "test", device: torch.device | None = None,
) -> Task:  # fmt: skip
    """A model of that name, from the checkpoint `path` (None: shipped), and its test sets. Raises UserError for sets
    that are not there or cannot be read.

    data  folder of the sets (None: the default Stamps sets); sets  names of `FOLDERS` (None: as `choose_sets`); device
    that the model is on (None: the CPU)
    """
    folder = "stamps" if data is None else os.path.normpath(data)
    scored = Scored(name, short_digest(predictor.digest or ""), path or name, folder)
    root, names, stamps = choose_sets(data, sets, split)
    records = {name: read_set(set_folder(root, name), split) for name in names}
    return Task(predictor, device or torch.device("cpu"), scored, root, split, stamps, records)


def choose_sets(
    data: Path | None, sets: Sequence[str] | None, split: Split = "test"
) -> tuple[Path, Sequence[str], bool]:
    """The folder of the sets, the names of those asked for, and whether they are Stamps.

    data  None: the default Stamps sets of the split; sets  None: all in the folder, of the default ones
    `DEFAULT_SETS`. A set of one's own, which is the folder itself, is `OWN`; the folder may be that of one public set
    as well, as it is for `icf train`. Raises UserError if the folder holds none, or is itself a set and others are
    named.
    """
    if data is not None and is_custom_dataset(data):
        if sets is not None:
            raise UserError(f"--sets {' '.join(sets)}: {data} is a set of your own, the only one there; leave it out")
        return data, [OWN], False
    if data is not None and _is_set(data):
        name = TABLES[find_table(data).name][0].lower()
        if sets and set(sets) != {name}:
            raise UserError(f"--sets {' '.join(sets)}: {data} is itself a set, {name}; give the folder above it")
        return data, [name], is_stamps(data)
    root = data or default_sets(split)
    if sets is not None:
        sets = list(dict.fromkeys(sets))
    else:
        sets = DEFAULT_SETS if data is None else [name for name in FOLDERS if (root / FOLDERS[name]).is_dir()]
    if not sets:
        raise UserError(
            f"{root} holds none of {', '.join(FOLDERS.values())}, and no videos/ and masks/; give the folder above "
            "them as --data"
        )
    return root, sets, any(is_stamps(root / FOLDERS[name]) for name in sets)


def set_folder(root: Path, name: str) -> Path:
    """The folder of the test set of that name: `root`, or below it."""
    return root if name == OWN or _is_set(root) else root / FOLDERS[name]


def _is_set(root: Path) -> bool:
    return any((root / table).is_file() for table in TABLES)


def default_sets(split: Split = "test") -> Path:
    """Folder of a split of Stamps in the cache, 120 clips a set, seed 0; written on first use or when outdated."""
    from icf_avs.synthetic.benchmark import write_stamps

    root = cache_dir() / f"stamps-{split}"
    write = partial(write_stamps, root, seed=0, video=False, workers=os.cpu_count() or 1)
    write(test=120, cross=120) if split == "test" else write(val=120, cross_val=120)
    return root
