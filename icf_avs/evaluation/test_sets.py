"""The model and test sets that `icf evaluate` scores: sets in a given folder, or the default ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from icf_avs.atomic_io import cache_dir, cache_lock
from icf_avs.datasets.custom_dataset import is_custom_dataset
from icf_avs.datasets.layouts import TABLES, find_table, is_stamps, read_set
from icf_avs.datasets.video_clip import ClipRecord
from icf_avs.errors import UserError
from icf_avs.provenance import short_digest
from icf_avs.score_tables import ScoredModel

if TYPE_CHECKING:
    from icf_avs.mask_predictor import MaskPredictor

Split = Literal["test", "val"]
DEFAULT_SETS = ("s4", "ms3", "cross")  # without AVSS, which repeats the scenes of S4 and MS3
FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "AVSS", "cross": "Cross"}
CUSTOM = "own"  # name of a custom data set, which is the folder itself


@dataclass(frozen=True)
class EvaluationTask:
    """A model and the clips to score it on. records: clips of the split by set name; root: folder of the sets."""

    predictor: MaskPredictor
    device: torch.device
    scored: ScoredModel
    root: Path
    split: Split
    is_stamps: bool
    records: dict[str, list[ClipRecord]]

    def label(self, name: str) -> str:
        """Return the name of a set in tables."""
        return name if self.split == "test" else f"{name}-{self.split}"


def load_task(
    predictor: MaskPredictor, name: str, path: str | None, data: Path | None, sets: Sequence[str] | None,
    split: Split = "test", device: torch.device | None = None,
) -> EvaluationTask:  # fmt: skip
    """Return the task for a model called `name`, loaded from checkpoint `path` (None: shipped), and its test sets.

    data  folder of the sets (None: the default Stamps sets); sets  names in `FOLDERS` (None: as in `choose_sets`);
    device of the model (None: the CPU). Raises UserError if a set is missing or unreadable.
    """
    folder = "stamps" if data is None else os.path.normpath(data)
    scored = ScoredModel(name, short_digest(predictor.digest or ""), path or name, folder)
    root, names, stamps = choose_sets(data, sets, split)
    records = {name: read_set(set_folder(root, name), split) for name in names}
    return EvaluationTask(predictor, device or torch.device("cpu"), scored, root, split, stamps, records)


def choose_sets(
    data: Path | None, sets: Sequence[str] | None, split: Split = "test"
) -> tuple[Path, Sequence[str], bool]:
    """Return the folder of the sets, the names of the requested sets, and whether they are Stamps.

    data  None: the default Stamps sets of the split
    sets  None: all sets in the folder, or `DEFAULT_SETS` for the default ones

    A custom set, which is the folder itself, is called `CUSTOM`. The folder may also be a single public set, as for
    `icf train`. Raises UserError if the folder holds no set, or if it is itself a set and others are named.
    """
    if data is not None and is_custom_dataset(data):
        if sets is not None:
            raise UserError(f"--sets {' '.join(sets)}: {data} is a set of your own, the only one there; leave it out")
        return data, [CUSTOM], False
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
    """Return the folder of the test set `name`: `root` or a subfolder."""
    return root if name == CUSTOM or _is_set(root) else root / FOLDERS[name]


def _is_set(root: Path) -> bool:
    return any((root / table).is_file() for table in TABLES)


def default_sets(split: Split = "test") -> Path:
    """Return the cached folder of a Stamps split, 120 clips a set, seed 0; written on first use or when outdated.
    Other processes wait meanwhile.
    """
    from icf_avs.synthetic.benchmark import write_stamps

    root = cache_dir() / f"stamps-{split}"
    write = partial(write_stamps, root, seed=0, video=False, workers=os.cpu_count() or 1)
    with cache_lock(root.name):
        write(test=120, cross=120) if split == "test" else write(val=120, cross_val=120)
    return root
