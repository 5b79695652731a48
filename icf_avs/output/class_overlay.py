"""Class masks in the colours of the palette, with the legend of those that are shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icf_avs.output.legend import Entry, draw_legend
from icf_avs.output.overlay import Overlay, limited_yuv
from icf_avs.output.palette import palette


def class_colours(n: int) -> np.ndarray:
    """Tint and contour of ids 0..n-1, uint8 [n, 2, 3]. The contour is lighter: many colours of the palette are dark."""
    tints = palette(n)
    return np.stack([tints, 128 + tints // 2], axis=1)


def entries(ids: Sequence[int], names: Sequence[str]) -> list[Entry]:
    """Legend entries of class ids, in that order; names[id] is the name of a class."""
    colours = class_colours(len(names))
    return [Entry(names[index], colours[index]) for index in ids]


class ClassOverlay:
    """The class masks of one picture and, at its top left, their legend, the largest first."""

    def __init__(self, ids: np.ndarray, names: Sequence[str]) -> None:
        """ids: uint8 [H, W], 0 is background; names[id] is the name of a class."""
        self._masks = Overlay(ids, class_colours(len(names)))
        self.is_empty = self._masks.is_empty
        pixels = np.bincount(ids.ravel(), minlength=len(names))
        pixels[0] = 0
        order = [index for index in np.argsort(-pixels, kind="stable").tolist() if pixels[index]]
        self._legend: tuple[np.ndarray, ...] | None = None
        height, width = ids.shape
        if order:
            panel = draw_legend(entries(order, names), width, max(2, height // 3), max(10, height // 32))
            self._legend = _planes(np.asarray(panel))

    def draw_yuv420(self, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        """Draw on the planes of a yuv420p picture: uint8 [H, W] and two of [ceil(H/2), ceil(W/2)], in place."""
        self._masks.draw_yuv420(y, u, v)
        for plane, panel in zip((y, u, v), self._legend or (), strict=False):
            rows, columns = panel.shape
            plane[:rows, :columns] = panel


def _planes(rgb: np.ndarray) -> tuple[np.ndarray, ...]:
    """uint8 [h, w, 3] -> its yuv420p planes, the chroma that of every second pixel; h and w are cut to even."""
    height, width = (side // 2 * 2 for side in rgb.shape[:2])
    yuv = limited_yuv(rgb[:height, :width]).astype(np.uint8)
    return yuv[..., 0], yuv[::2, ::2, 1], yuv[::2, ::2, 2]
