"""sheet.png: one look at a whole video, with times and what was heard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILES = 12  # at most
_COLUMNS, _CAPTION, _GAP = 4, 22, 6


@dataclass(frozen=True)
class Tile:
    """A small picture with its mask drawn in (uint8 [h, w, 3]), and the line below it."""

    picture: np.ndarray
    caption: str


def tile_numbers(count: int) -> set[int]:
    """Which of `count` masks are shown: at most 12, evenly spaced, first and last among them."""
    return set(np.linspace(0, count - 1, min(count, TILES)).round().astype(int).tolist())


def caption(seconds: float, heard: tuple[tuple[str, float], ...], width: int) -> str:
    """Time stamp and words, cut to `width` pixels."""
    minutes, rest = divmod(round(seconds, 1), 60)
    text = f"{int(minutes)}:{rest:04.1f}"
    font = ImageFont.load_default(14)
    for word, probability in heard:
        longer = f"{text}  {word} {probability:.0%}"
        if font.getlength(longer) > width:
            break
        text = longer
    return text


def contact_sheet(tiles: list[Tile]) -> Image.Image:
    """Lay tiles of one size out in rows of four."""
    height, width = tiles[0].picture.shape[:2]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = width + _GAP, height + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), (24, 24, 24))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, tile in enumerate(tiles):
        x, y = number % columns * step_x + _GAP, number // columns * step_y + _GAP
        sheet.paste(Image.fromarray(tile.picture), (x, y))
        draw.text((x + 2, y + height + 2), tile.caption, fill=(235, 235, 235), font=font)
    return sheet
