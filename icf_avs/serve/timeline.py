"""HTML table of tags and masks over time: one row per tag, one column per mask, darker for higher values."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from icf_avs.output.text_summary import clock, no_word
from icf_avs.results import FrameMask

_WORDS = 12  # rows: the tags with the highest peaks; the top tag of any frame with a mask is added
CSS = """
.timeline { overflow-x: auto; contain: inline-size; }
.timeline table { border-collapse: separate; border-spacing: 2px; font-size: 12px; width: auto; border: 0; }
.timeline td, .timeline th { padding: 2px 3px; min-width: 26px; text-align: center; border: 0; font-weight: normal; }
.timeline th[scope=row] { text-align: right; white-space: nowrap; position: sticky; left: 0;
  background: var(--body-background-fill); }
.timeline td { border-radius: 3px; }
"""
_HEADING = "<p>How sure the model is of each sound, and how much of the frame is tinted, in percent:</p>"
_TAG_COLOUR, _MASK_COLOUR = "38, 110, 190", "230, 90, 20"  # RGB


def timeline_html(frames: Sequence[FrameMask]) -> str:
    """Return HTML with the tags of each interval and the segmented share of the frame. Tags are HTML-escaped."""
    peaks: dict[str, float] = {}
    for frame in frames:
        for word, probability in frame.heard:
            peaks[word] = max(peaks.get(word, 0.0), probability)
    words = sorted(peaks, key=lambda word: (-peaks[word], word))
    driving = {frame.heard[0][0] for frame in frames if frame.area and frame.heard}  # never left out
    words = [word for rank, word in enumerate(words) if rank < _WORDS or word in driving]
    head = "".join(f"<th scope=col>{clock(frame.start)}</th>" for frame in frames)
    rows = [f"<tr><th scope=row>second</th>{head}</tr>"]
    for word in words:
        rows.append(_row(word, [dict(frame.heard).get(word, 0.0) for frame in frames], _TAG_COLOUR))
    if not words:
        heard = no_word(max(frames, key=lambda frame: frame.area))
        rows.append(f'<tr><th scope=row>tags</th><td colspan="{len(frames)}">{heard}</td></tr>')
    rows.append(_row("tinted", [frame.area for frame in frames], _MASK_COLOUR))
    return f'{_HEADING}<div class="timeline"><table>{"".join(rows)}</table></div>'


def _row(name: str, values: Sequence[float], colour: str) -> str:
    cells = "".join(
        f'<td style="background: rgba({colour}, {0.04 + 0.8 * value:.2f})">{_percent(value)}</td>' for value in values
    )
    return f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>"


def _percent(value: float) -> str:
    return "" if value == 0 else "&lt;1" if value < 0.01 else f"{100 * value:.0f}"
