"""Features of the frames of a public set, which a frozen encoder computes once for all epochs.

On a CPU the encoder costs more than all that trains, and its output for a frame never changes. The file has no name and
is gone with the process: nothing can be stale, and a resumed run reads the same numbers again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from icf_avs.datasets.clip import ClipRecord
from icf_avs.datasets.image_io import read_frames

SPARE = 2**30  # bytes of the disk that are left alone


class FrameFeatures:
    """The pyramids of all clips of a split, each encoded when it is first requested."""

    def __init__(self, records: Sequence[ClipRecord], encoder: nn.Module, size: int, folder: Path) -> None:
        """encoder: frozen, frames uint8 [N,S,S,3] -> levels; size: S, pixels; folder: where the file lies.

        Raises OSError if the disk of `folder` has no room for it.
        """
        self.records, self.encoder, self.size = records, encoder, size
        self._shapes = [
            (channels, -(-size // stride), -(-size // stride))
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]
        self._first = list(accumulate((len(record.frame_paths) for record in records), initial=0))
        numbers = sum(int(np.prod(shape)) for shape in self._shapes)
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 2 * numbers * self._first[-1] + SPARE:
            raise OSError(f"no room for {self._first[-1]} pyramids in {folder}")
        with tempfile.TemporaryFile(dir=folder) as file:  # the map outlives it
            if hasattr(os, "posix_fallocate"):  # a disk that fills later would end the process with a bus error
                os.posix_fallocate(file.fileno(), 0, 2 * numbers * self._first[-1])
            self._rows = np.memmap(file, np.float16, "w+", shape=(self._first[-1], numbers))
        self._seen = np.zeros(len(records), bool)

    def __call__(self, index: int) -> tuple[Tensor, ...]:
        """Levels [T,c,h,w] float32 of clip `index`, rounded to float16, the first time too."""
        rows = self._rows[self._first[index] : self._first[index + 1]]
        if not self._seen[index]:
            frames = torch.from_numpy(read_frames(self.records[index].frame_paths, self.size))
            with torch.inference_mode():
                rows[:] = torch.cat([level.flatten(1) for level in self.encoder(frames)], 1).half().numpy()
            self._seen[index] = True
        values = torch.from_numpy(rows.astype(np.float32))
        parts = values.split([int(np.prod(shape)) for shape in self._shapes], 1)
        return tuple(part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True))
