"""Where the batches of a run on a public set come from."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icf_avs.avsbench.dataset import ClipDataset, collate
from icf_avs.avsbench.layouts import read_set
from icf_avs.avsbench.names import class_names
from icf_avs.config import TrainConfig
from icf_avs.contracts import Batch
from icf_avs.errors import UserError
from icf_avs.evaluate import evaluate

if TYPE_CHECKING:
    from icf_avs.model.icf import ICF


class BenchmarkData:
    """The train split in an order drawn anew for every epoch; the val split for the scores at the end."""

    def __init__(self, config: TrainConfig, root: Path | None, workers: int) -> None:
        layout = config.benchmark.layout
        if root is None:
            raise UserError(f"recipe {config.name} trains on a {layout} set: name its folder with --data")
        self.config, self.root = config, root
        records = read_set(root, "train")
        if records[0].layout != layout:
            raise UserError(
                f"{root} is a {records[0].layout} set and recipe {config.name} wants {layout}; name another"
            )
        self.classes = class_names(root)
        self.origin = f"{layout} layout, {len(records)} training clips" + (
            ", composed Stamps scenes" if (root / "scenes.csv").is_file() else ""
        )
        self.licence = "weights follow the terms of the set they were trained on"
        self.clips = ClipDataset(records, self.classes, config.spec)
        self.size = max(1, config.batch // config.spec.frames)
        self._workers = ThreadPoolExecutor(max(1, workers))

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Part number `part` of the batch of a step: a function of the run's seed and these numbers."""
        order = _order(self.config.seed, step * self.size, self.size, len(self.clips))
        return collate(list(self._workers.map(self.clips.__getitem__, order[part::parts])))

    def validate(self, model: ICF) -> dict[str, float]:
        """Strict scores on the val split: mIoU and F, and the share marked where nothing sounds."""
        scores = evaluate(model, read_set(self.root, "val"))["strict"]
        return {name: scores[name] for name in ("miou", "f", "fpr_empty")}


def _order(seed: int, first: int, count: int, clips: int) -> list[int]:
    """Places first .. first + count - 1 of an endless row of shuffled epochs."""
    found: list[int] = []
    while len(found) < count:
        epoch, place = divmod(first + len(found), clips)
        shuffled = np.random.default_rng([seed, epoch]).permutation(clips)
        found += shuffled[place : place + count - len(found)].tolist()
    return found
