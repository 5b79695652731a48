"""The outline of one thing in a COCO file, checked: pycocotools takes a line of two points for a box, and reads and
writes beyond its memory for run lengths that are broken.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from icf_avs.output.coco import check_run_lengths

_FAR = 16  # times the size of the picture: memory grows with the coordinates


def checked(segmentation: Any, height: int, width: int) -> list[list[float]] | dict[str, Any]:
    """Polygons without those that mark nothing, or run lengths. Raises ValueError, which says what is wrong."""
    if not segmentation:
        raise ValueError("no segmentation, only a box")
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise ValueError("a segmentation that is no list of polygons")
    polygons = [polygon for polygon in segmentation if _marks(polygon, height, width)]
    if not polygons:
        raise ValueError("no polygon that marks anything in the picture")
    return polygons


def marked(outline: list[list[float]] | dict[str, Any], height: int, width: int) -> np.ndarray:
    """bool [height, width] of what `checked` gave."""
    if isinstance(outline, dict):
        whole = isinstance(outline["counts"], list)
        code = coco_mask.frPyObjects(outline, height, width) if whole else outline
    else:
        code = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
    return coco_mask.decode(code).astype(bool)


def is_number(value: Any) -> bool:
    """Whether JSON holds a finite number there."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _marks(polygon: list[Any], height: int, width: int) -> bool:
    if len(polygon) % 2 or not all(is_number(value) for value in polygon):
        raise ValueError("a polygon that is no list of pairs of numbers")
    if any(abs(value) > _FAR * max(height, width) for value in polygon):
        raise ValueError("a polygon far outside the picture")
    points = np.array(polygon, float).reshape(-1, 2)
    if len(points) < 3 or np.linalg.matrix_rank(points - points[0]) < 2:  # a point or a line
        return False
    return bool((points.max(0) > 0).all() and (points.min(0) < (width, height)).all())


def _run_lengths(code: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    counts = code.get("counts")
    if code.get("size") != [height, width]:
        raise ValueError("run lengths of another size than the picture")
    if isinstance(counts, str):
        check_run_lengths(code, height, width)
        empty = not coco_mask.area(code)
    else:
        whole = isinstance(counts, list) and all(isinstance(run, int) and 0 <= run <= height * width for run in counts)
        if not whole or sum(counts) != height * width:
            raise ValueError("broken run lengths")
        empty = not sum(counts[1::2])
    if empty:
        raise ValueError("run lengths that mark nothing")
    return {"size": [height, width], "counts": counts}
