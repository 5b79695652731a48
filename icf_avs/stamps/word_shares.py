"""What the segmenter of things says of the pictures of word scenes, kept beside their features.

It looks at the copies of half the size that are kept there, so scenes need not be rendered again for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icf_avs.atomic_io import replaced_file
from icf_avs.backbones.things import GRID, THINGS, ThingSegmenter, find_segmenter
from icf_avs.errors import UserError
from icf_avs.stamps.made_once import made_once

VERSION = 1  # raise when the segmenter or what it looks at changes
_AT_ONCE = 8  # pictures


def kept_shares(folder: Path, colours: np.ndarray, progress: Callable[[int, int], None]) -> np.ndarray:
    """colours uint8 [n,T,s,s,3], kept in `folder` -> shares [n,T,20,GRID,GRID] as bytes (read them with `shares_of`).

    progress: scenes done, of all. Without a segmenter shares are 0, and nothing is kept. Raises UserError when the disk
    is full.
    """
    path = folder / f"shares-{VERSION}.npy"
    shape = (*colours.shape[:2], THINGS, GRID, GRID)
    with made_once(folder.with_name(f"{folder.name}-shares")):
        if not path.is_file():
            if (segmenter := _segmenter()) is None:
                return np.zeros(shape, np.uint8)
            shares = np.empty(shape, np.uint8)
            flat, pictures = shares.reshape(-1, *shape[2:]), colours.reshape(-1, *colours.shape[2:])
            for at in range(0, len(pictures), _AT_ONCE):
                found = segmenter(torch.tensor(pictures[at : at + _AT_ONCE]))
                flat[at : at + _AT_ONCE] = (found * 255).round().byte().numpy()
                progress(min(at + _AT_ONCE, len(pictures)) // shape[1], shape[0])
            _write(path, shares)
    return np.load(path, mmap_mode="r")


def shares_of(stored: np.ndarray) -> Tensor:
    """Stored bytes -> shares float32."""
    return torch.tensor(stored).float() / 255


@lru_cache(maxsize=1)
def _segmenter() -> ThingSegmenter | None:
    return find_segmenter()


def _write(path: Path, shares: np.ndarray) -> None:
    try:
        with replaced_file(path) as new:
            np.save(new, shares)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); set ICF_CACHE to another folder") from error
