"""Draw a mask on a picture: a tint inside, a contour around. Plane by plane, so that YUV video stays YUV.

out = (keep * plane + add) / 256, inside the bounding box of the mask only
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TINT, CONTOUR = (255, 64, 0), (255, 232, 64)  # RGB
_OPACITY = 112  # of the tint, out of 256; the contour is opaque


def inner_edge(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask (bool [H, W]) that lie within `width` steps of its outside; the frame is not an edge."""
    inside = mask
    for _ in range(width):
        padded = np.pad(inside, 1, mode="edge")
        inside = inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


@dataclass(frozen=True)
class _Layer:
    """What one mask does to one plane."""

    box: tuple[slice, slice]
    keep: np.ndarray  # uint16
    add: np.ndarray  # uint16
    mixed: np.ndarray  # uint16, room to work in: a new array for every picture costs as much as the sum

    @classmethod
    def of(cls, box: tuple[slice, slice], mask: np.ndarray, edge: np.ndarray, tint: int, contour: int) -> _Layer:
        weight = np.where(edge, 256, np.where(mask, _OPACITY, 0)).astype(np.uint16)
        add = weight * np.where(edge, contour, tint).astype(np.uint16)
        return cls(box, 256 - weight, add, np.empty_like(add))

    def draw(self, plane: np.ndarray) -> None:
        part = plane[self.box]
        np.multiply(self.keep, part, out=self.mixed)
        np.add(self.mixed, self.add, out=self.mixed)
        np.right_shift(self.mixed, 8, out=self.mixed)
        part[...] = self.mixed


class Overlay:
    """One mask, made ready to be drawn on many pictures of its size."""

    def __init__(self, mask: np.ndarray) -> None:
        """mask: bool [H, W]."""
        self.is_empty = not mask.any()
        if self.is_empty:
            return
        width = max(1, round(min(mask.shape) / 240))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # Even bounds, so that the box falls on whole pixels of the half-size colour planes too.
        top, bottom = rows[0] // 2 * 2, rows[-1] + 1
        left, right = columns[0] // 2 * 2, columns[-1] + 1
        self._box = slice(top, bottom), slice(left, right)
        self._half_box = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
        edge = inner_edge(mask, width)
        self._mask, self._edge = mask[self._box], edge[self._box]
        self._yuv: list[_Layer] | None = None

    def draw_rgb(self, picture: np.ndarray) -> None:
        """Draw on uint8 [H, W, 3], in place."""
        if not self.is_empty:
            for channel in range(3):
                layer = _Layer.of(self._box, self._mask, self._edge, TINT[channel], CONTOUR[channel])
                layer.draw(picture[..., channel])

    def draw_yuv420(self, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        """Draw on the planes of a yuv420p picture: uint8 [H, W] and two of [ceil(H/2), ceil(W/2)], in place."""
        if self.is_empty:
            return
        if self._yuv is None:
            half_mask, half_edge = _halved(self._mask), _halved(self._edge)
            tint, contour = _yuv(TINT), _yuv(CONTOUR)
            self._yuv = [_Layer.of(self._box, self._mask, self._edge, tint[0], contour[0])]
            self._yuv += [_Layer.of(self._half_box, half_mask, half_edge, tint[i], contour[i]) for i in (1, 2)]
        for layer, plane in zip(self._yuv, (y, u, v), strict=True):
            layer.draw(plane)


def _halved(mask: np.ndarray) -> np.ndarray:
    """Bool [H, W] -> [ceil(H/2), ceil(W/2)], true where any of the 2 x 2 pixels is."""
    padded = np.pad(mask, ((0, mask.shape[0] % 2), (0, mask.shape[1] % 2)))
    return padded.reshape(padded.shape[0] // 2, 2, -1, 2).any(axis=(1, 3))


def _yuv(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """BT.601 in the limited range: exact enough for a marker, whatever the matrix of the video."""
    r, g, b = rgb
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return round(16 + y * 219 / 255), round(128 + (b - y) * 0.564 * 224 / 255), round(128 + (r - y) * 0.713 * 224 / 255)
