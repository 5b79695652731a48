"""Draw masks on a frame, with a tint inside and a contour. Works per plane, so that YUV video needs no conversion.

out = (keep * plane + add) / 256, inside the bounding box of the mask in each band of rows
"""

from __future__ import annotations

import numpy as np

TINT, CONTOUR = (255, 64, 0), (255, 232, 64)  # RGB
_OPACITY = 112  # of the tint, out of 256; the contour is opaque
_BAND = 64  # rows per band, which fits in the processor's cache; bands without a mask are skipped


def inner_edge(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the inner edge, bool [H, W]: pixels of a mask (bool, or uint8 ids, [H, W]) within `width` of the outside.

    The border of the image is not an edge.
    """
    up, down, left, right = _neighbours(mask)
    inside = (mask == up) & (mask == down) & (mask == left) & (mask == right)
    for _ in range(width - 1):
        up, down, left, right = _neighbours(inside)
        inside = inside & up & down & left & right
    return (mask != 0) & ~inside


def _neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    padded = np.pad(values, 1, mode="edge")
    return padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]


class _Layer:
    """Precomputed blending of one mask (bool, or ids) with one plane, in a box with upper left corner (top, left)."""

    def __init__(self, corner: tuple[int, int], mask: np.ndarray, edge: np.ndarray, colours: np.ndarray) -> None:
        """colours: of one channel, tint and contour [2], or those of each id in `mask` [n, 2]."""
        tint, contour = colours if colours.ndim == 1 else (colours[mask, 0], colours[mask, 1])
        weight = np.where(edge, 256, np.where(mask, _OPACITY, 0)).astype(np.uint16)
        add = weight * np.where(edge, contour, tint).astype(np.uint16)
        self._bands = []  # (slices of the plane, keep, add)
        for first in range(0, len(mask), _BAND):
            columns = np.flatnonzero(mask[first : first + _BAND].any(axis=0))
            if len(columns):
                part = slice(first, min(first + _BAND, len(mask))), slice(columns[0], columns[-1] + 1)
                region = tuple(slice(side.start + by, side.stop + by) for side, by in zip(part, corner, strict=True))
                self._bands.append((region, 256 - weight[part], add[part]))
        # Reused buffer: allocating a new array for every frame takes as long as the arithmetic.
        self._buffer = np.empty(_BAND * mask.shape[1], np.uint16)

    def draw(self, plane: np.ndarray) -> None:
        for region, keep, add in self._bands:
            blended = self._buffer[: keep.size].reshape(keep.shape)
            np.multiply(keep, plane[region], out=blended)
            blended += add
            blended >>= 8
            plane[region] = blended


class Overlay:
    """A mask, or class masks, prepared for drawing on many frames of the same size."""

    def __init__(self, mask: np.ndarray, colours: np.ndarray | None = None) -> None:
        """mask: bool [H, W]; with colours (uint8 [n, 2, 3], tint and contour of each id) class ids, uint8 [H, W]."""
        self.is_empty = not mask.any()
        if self.is_empty:
            return
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        # Even bounds, so that the box is aligned with pixels of the half-size chroma planes.
        self._corner = int(rows[0] // 2 * 2), int(columns[0] // 2 * 2)
        box = slice(self._corner[0], rows[-1] + 1), slice(self._corner[1], columns[-1] + 1)
        self._mask, self._edge = mask[box], inner_edge(mask, max(1, round(min(mask.shape) / 240)))[box]
        self._rgb = np.array((TINT, CONTOUR)) if colours is None else colours
        self._yuv: list[_Layer] = []

    def draw_rgb(self, image: np.ndarray) -> None:
        """Draw on uint8 [H, W, 3], in place."""
        if not self.is_empty:
            for channel in range(3):
                _Layer(self._corner, self._mask, self._edge, self._rgb[..., channel]).draw(image[..., channel])

    def draw_yuv420(self, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        """Draw on the planes of a yuv420p frame: uint8 [H, W] and two of [ceil(H/2), ceil(W/2)], in place."""
        if self.is_empty:
            return
        if not self._yuv:
            yuv, half = limited_yuv(self._rgb), (self._corner[0] // 2, self._corner[1] // 2)
            halves = _halved(self._mask), _halved(self._edge)
            self._yuv = [_Layer(self._corner, self._mask, self._edge, yuv[..., 0])]
            self._yuv += [_Layer(half, *halves, yuv[..., channel]) for channel in (1, 2)]
        for layer, plane in zip(self._yuv, (y, u, v), strict=True):
            layer.draw(plane)


def _halved(mask: np.ndarray) -> np.ndarray:
    """Downsample [H, W] to [ceil(H/2), ceil(W/2)] by the maximum of 2 x 2 pixels (any, or the highest id)."""
    padded = np.pad(mask, ((0, mask.shape[0] % 2), (0, mask.shape[1] % 2)))
    return padded.reshape(padded.shape[0] // 2, 2, -1, 2).max(axis=(1, 3))


def limited_yuv(rgb: np.ndarray) -> np.ndarray:
    """Convert RGB to YUV, int [..., 3]. BT.601, limited range: accurate enough for drawing with any color matrix."""
    r, g, b = np.moveaxis(np.asarray(rgb, dtype=float), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    planes = 16 + y * 219 / 255, 128 + (b - y) * 0.564 * 224 / 255, 128 + (r - y) * 0.713 * 224 / 255
    return np.stack(planes, axis=-1).round().astype(int)
