"""The folder of a run: a run that ends before its first step leaves nothing new in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from icf_avs.training.accelerator import processes

if TYPE_CHECKING:
    from icf_avs.training.trainer import Trainer

WRITTEN = ("metrics.jsonl", "recipe.json", "samples", "tensorboard", "wandb", "wandb-id.txt")  # before the first step


class RunFolder:
    """A context in which the folder is there. Belongs to the process that writes; the others leave the folder alone.

    trainer: of the run, to be set once there is one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trainer: Trainer | None = None
        self._before = set(self._written())
        self._absent = [path for path in (folder, *folder.parents) if not path.exists()]
        self._writes = processes().is_main_process

    def __enter__(self) -> RunFolder:
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        begun = self.trainer is not None and self.trainer.step != self.trainer.resumed_at
        if kind is None or begun or not self._writes:
            return
        for path in self._written():
            if path in self._before:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in self._absent:
            try:
                path.rmdir()
            except OSError:  # something else is in it by now
                break

    def _written(self) -> list[Path]:
        """What a run writes before its first step, as far as it is there: files, and folders with all in them."""
        there = [self.folder / name for name in WRITTEN if (self.folder / name).exists()]
        return [inner for path in there for inner in (path, *path.rglob("*"))]
