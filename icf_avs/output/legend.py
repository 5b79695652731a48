"""A legend: the colours and names of classes in a row, or as many rows as they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK = (24, 24, 24), (235, 235, 235)


class Entry(NamedTuple):
    """One class: its name, and tint and contour as uint8 [2, 3]."""

    name: str
    colours: np.ndarray


def draw_legend(entries: Sequence[Entry], width: int, height: int, text_size: int) -> Image.Image:
    """As small a picture as holds the entries, in rows of at most `width` pixels, never larger than width x height.

    If not all have room, the last words say how many are left out.
    """
    font = ImageFont.load_default(text_size)
    line, swatch, gap = round(1.5 * text_size), text_size, max(2, text_size // 3)
    rows = max(1, height // line)
    widths = [gap + swatch + gap + round(font.getlength(entry.name)) + gap for entry in entries]
    shown, more, places = len(entries), "", _places(widths, width)
    while places[-1][1] >= rows and shown > 1:
        shown -= 1
        more = f"+{len(entries) - shown} more"
        places = _places([*widths[:shown], gap + round(font.getlength(more)) + gap], width)

    used = [x + w for (x, _), w in zip(places, [*widths[:shown], gap + font.getlength(more) + gap], strict=False)]
    size = min(width, round(max(used))), min(height, line * (places[-1][1] + 1))
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    for entry, (x, row) in zip(entries[:shown], places, strict=False):
        tint, contour = (tuple(colour) for colour in entry.colours.tolist())
        left, top = x + gap, row * line + (line - swatch) // 2
        draw.rectangle((left, top, left + swatch - 1, top + swatch - 1), fill=tint, outline=contour)
        draw.text((left + swatch + gap, row * line + line // 2), entry.name, fill=_INK, font=font, anchor="lm")
    if more:
        x, row = places[-1]
        draw.text((x + gap, row * line + line // 2), more, fill=_INK, font=font, anchor="lm")
    return picture


def _places(widths: list[int], width: int) -> list[tuple[int, int]]:
    """Where each item begins: (x, row)."""
    places, x, row = [], 0, 0
    for item in widths:
        if x and x + item > width:
            x, row = 0, row + 1
        places.append((x, row))
        x += item
    return places
