"""COCO run-length encoding (RLE) of masks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask: bool [H, W] -> {"size": [H, W], "counts": text}, as pycocotools reads it."""
    run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode("ascii")}


def encode_empty(height: int, width: int) -> dict[str, Any]:
    """Encode an empty mask [height, width]."""
    return {"size": [height, width], "counts": _empty_counts(height, width)}


def decode(run_lengths: dict[str, Any]) -> np.ndarray:
    """Decode what `encode` returned to a mask, bool [H, W]."""
    if run_lengths["counts"] == _empty_counts(*run_lengths["size"]):
        return np.zeros(run_lengths["size"], bool)
    return coco_mask.decode(run_lengths).astype(bool)


@lru_cache(maxsize=4)
def _empty_counts(height: int, width: int) -> str:
    """Counts of an empty mask, cached: a video has many of them."""
    return encode(np.zeros((height, width), bool))["counts"]


def check_run_lengths(run_lengths: dict[str, Any], height: int, width: int) -> None:
    """Raise ValueError unless these are valid run lengths of a mask of that size.

    Needed for run lengths read from a file: some invalid ones make pycocotools write out of bounds.
    """
    text = run_lengths["counts"]
    if run_lengths["size"] != [height, width]:
        raise ValueError("a mask is not of the size of the video")
    counts, value, shift = [], 0, 0
    for code in text.encode("ascii", "replace"):  # 5 bits per character, lowest first; the sixth bit: more follow
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("the run lengths of a mask are broken")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # sign bit
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))  # 4th run on: change from two runs earlier
            value = shift = 0
    if shift or min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise ValueError("the run lengths of a mask are broken")
