"""Masks as COCO run lengths."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Bool [H, W] -> {"size": [H, W], "counts": text}, as pycocotools reads it."""
    run_lengths = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(run_lengths["size"]), "counts": run_lengths["counts"].decode("ascii")}


def encode_empty(height: int, width: int) -> dict[str, Any]:
    """encode(zeros [height, width])."""
    return {"size": [height, width], "counts": _nothing(height, width)}


def decode(run_lengths: dict[str, Any]) -> np.ndarray:
    """The inverse of encode: bool [H, W]."""
    if run_lengths["counts"] == _nothing(*run_lengths["size"]):
        return np.zeros(run_lengths["size"], bool)
    return coco_mask.decode(run_lengths).astype(bool)


@lru_cache(maxsize=4)
def _nothing(height: int, width: int) -> str:
    """Run lengths of a mask that is empty: of the many in a video, none is worked out."""
    return encode(np.zeros((height, width), bool))["counts"]


def check_run_lengths(run_lengths: dict[str, Any], height: int, width: int) -> None:
    """Raise ValueError unless these are run lengths of a mask of that size.

    For those out of a file: pycocotools writes beyond its memory for some that are broken.
    """
    text = run_lengths["counts"]
    if run_lengths["size"] != [height, width]:
        raise ValueError("a mask is not of the size of the video")
    counts, value, shift = [], 0, 0
    for code in text.encode("ascii", "replace"):  # 5 bits a character, the lowest first; the sixth says: more to come
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("the run lengths of a mask are broken")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift  # the highest bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))  # from the fourth on, the change by two runs
            value = shift = 0
    if shift or min(counts, default=-1) < 0 or sum(counts) != height * width:
        raise ValueError("the run lengths of a mask are broken")
