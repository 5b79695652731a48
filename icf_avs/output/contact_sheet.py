"""sheet.png: a contact sheet of the whole video, with times and tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from icf_avs.output.class_overlay import INK, PAPER, class_colours, draw_legend
from icf_avs.output.overlay import Overlay
from icf_avs.output.text_summary import clock
from icf_avs.results import FrameMask

TILES = 12  # at most
_COLUMNS, _CAPTION, _GAP = 4, 22, 6


class Tile(NamedTuple):
    """A small image with its mask drawn in (uint8 [h, w, 3]), and its caption."""

    image: np.ndarray
    caption: str


def tile_numbers(count: int) -> set[int]:
    """Return the indices of the shown masks: at most 12 of `count`, evenly spaced, including the first and the last."""
    return set(np.linspace(0, count - 1, min(count, TILES)).round().astype(int).tolist())


def caption(seconds: float, heard: tuple[tuple[str, float], ...], width: int) -> str:
    """Return the time and as many tags as fit into `width` pixels; the first tag is truncated if needed."""
    text, font = clock(seconds), ImageFont.load_default(14)
    for rank, (word, probability) in enumerate(heard):
        longer = f"{text}  {word} {probability:.0%}"
        if font.getlength(longer) > width:
            if rank:
                return text
            while len(longer) > 1 and font.getlength(f"{longer}...") > width:
                longer = longer[:-1].rstrip()
            return f"{longer}..."
        text = longer
    return text


def frame_tile(frame: FrameMask, preview: np.ndarray) -> Tile:
    """Draw a mask, or its classes if available, on the small image uint8 [h, w, 3]."""
    height, width = preview.shape[:2]
    mask = Image.fromarray(frame.class_ids if frame.class_names else frame.mask)
    small = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))
    image = preview.copy()
    Overlay(small, class_colours(len(frame.class_names)) if frame.class_names else None).draw_rgb(image)
    return Tile(image, caption(frame.picture_time, frame.heard, width))


def contact_sheet(tiles: Sequence[Tile], frames: Sequence[FrameMask] = ()) -> Image.Image:
    """Lay out tiles of one size in rows of four, with a legend below of the classes in `frames`, if any, largest area
    first.
    """
    height, width = tiles[0].image.shape[:2]
    columns = min(_COLUMNS, len(tiles))
    step_x, step_y = width + _GAP, height + _CAPTION + _GAP
    across, down = columns * step_x + _GAP, -(-len(tiles) // columns) * step_y + _GAP
    area: Counter[int] = Counter()
    for frame in frames:
        area.update({part.category_id: part.area for part in frame.classes})
    legend = Image.new("RGB", (0, 0))
    if area:
        order = [index for index, _ in area.most_common()]
        legend = draw_legend(order, frames[0].class_names, across, 40 * _CAPTION, 14)
    sheet = Image.new("RGB", (across, down + legend.height), PAPER)
    sheet.paste(legend, (0, down))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, tile in enumerate(tiles):
        x, y = number % columns * step_x + _GAP, number // columns * step_y + _GAP
        sheet.paste(Image.fromarray(tile.image), (x, y))
        draw.text((x + 2, y + height + 2), tile.caption, fill=INK, font=font)
    return sheet
