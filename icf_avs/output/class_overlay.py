"""Overlay of class masks: colours of class ids, a legend of the visible classes, and drawing both on video frames.

Colours of class ids are those of the AVSS labels (labels_rgb) and of PASCAL VOC.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from icf_avs.output.overlay import Overlay, limited_yuv

COLOURS = 256  # number of ids in a byte
PAPER, INK = (24, 24, 24), (235, 235, 235)


def palette(n: int = COLOURS) -> np.ndarray:
    """Return colours of ids 0..n-1, uint8 [n, 3] RGB: 0 is black, 1 is (128, 0, 0), 2 is (0, 128, 0).

    The bits of an id go to red, green and blue in turn, low bits of the id to high bits of the channels.
    """
    if not 1 <= n <= COLOURS:
        raise ValueError(f"{n} colours asked for; there are 1 to {COLOURS}")
    ids, channels = np.arange(n)[:, None], np.arange(3)
    colours = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        colours |= ((ids >> (3 * bit + channels) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def indexed(ids: np.ndarray) -> Image.Image:
    """Convert class ids, uint8 [H, W], to an indexed image (mode P) with the colours of `palette`."""
    image = Image.fromarray(ids)
    image.putpalette(palette().tobytes())
    return image


def class_colours(n: int) -> np.ndarray:
    """Return tint and contour of ids 0..n-1, uint8 [n, 2, 3]. Contours are lighter: many palette colours are dark."""
    tints = palette(n)
    return np.stack([tints, 128 + tints // 2], axis=1)


def draw_legend(ids: Sequence[int], names: Sequence[str], width: int, height: int, text_size: int) -> Image.Image:
    """Draw a legend of these classes as small as possible, in rows of at most `width` pixels, at most width x height;
    names[id] is the name of a class.

    If there is not enough room, the last entry gives the number of omitted classes.
    """
    font, colours = ImageFont.load_default(text_size), class_colours(len(names)).tolist()
    line, gap = round(1.5 * text_size), max(2, text_size // 3)
    widths = [2 * gap + text_size + round(font.getlength(names[index])) + gap for index in ids]
    shown, omitted_label, positions = len(ids), "", _layout(widths, width)
    while positions[-1][1] >= max(1, height // line) and shown > 1:
        shown -= 1
        omitted_label = f"+{len(ids) - shown} more"
        positions = _layout([*widths[:shown], gap + round(font.getlength(omitted_label)) + gap], width)

    drawn_widths = [*widths[:shown], gap + font.getlength(omitted_label) + gap]
    row_ends = [x + w for (x, _), w in zip(positions, drawn_widths, strict=False)]
    size = min(width, round(max(row_ends))), min(height, line * (positions[-1][1] + 1))
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    for (x, row), index in zip(positions, [*ids[:shown], None], strict=False):
        left, top, text = x + gap, row * line + (line - text_size) // 2, omitted_label
        if index is not None:
            tint, contour = (tuple(colour) for colour in colours[index])
            draw.rectangle((left, top, left + text_size - 1, top + text_size - 1), fill=tint, outline=contour)
            left, text = left + text_size + gap, names[index]
        draw.text((left, row * line + line // 2), text, fill=INK, font=font, anchor="lm")
    return image


def _layout(widths: list[int], width: int) -> list[tuple[int, int]]:
    """Lay items out in rows; return the start of each: (x, row)."""
    positions, x, row = [], 0, 0
    for item in widths:
        if x and x + item > width:
            x, row = 0, row + 1
        positions.append((x, row))
        x += item
    return positions


class ClassOverlay:
    """The class masks of one frame and a legend at its top left, sorted by area, largest first."""

    def __init__(self, ids: np.ndarray, names: Sequence[str]) -> None:
        """ids: uint8 [H, W], 0 is background; names[id] is the name of a class."""
        self._masks = Overlay(ids, class_colours(len(names)))
        self.is_empty = self._masks.is_empty
        self._legend: np.ndarray | None = None  # YUV [h, w, 3], h and w even
        if not self.is_empty:
            height, width = ids.shape
            areas = np.bincount(ids.ravel(), minlength=len(names))
            order = [index for index in np.argsort(-areas, kind="stable").tolist() if index and areas[index]]
            panel = draw_legend(order, names, width, max(2, height // 3), max(10, height // 32))
            rgb = np.asarray(panel)[: panel.height // 2 * 2, : panel.width // 2 * 2]
            self._legend = limited_yuv(rgb).astype(np.uint8)

    def draw_yuv420(self, y: np.ndarray, u: np.ndarray, v: np.ndarray) -> None:
        """Draw on the planes of a yuv420p frame: uint8 [H, W] and two of [ceil(H/2), ceil(W/2)], in place."""
        self._masks.draw_yuv420(y, u, v)
        if self._legend is not None:
            height, width, _ = self._legend.shape
            y[:height, :width] = self._legend[..., 0]
            for plane, channel in ((u, 1), (v, 2)):
                plane[: height // 2, : width // 2] = self._legend[::2, ::2, channel]
