"""Text summary of the tags of a video: one line per interval with the same tags, segmented or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icf_avs.results import FrameMask

MAX_LINES = 24  # lines; segmentation.json has the rest


def tag_lines(frames: Sequence[FrameMask]) -> Iterator[str]:
    """Yield lines of an interval and its tags with their maximum probabilities: "0:00-0:03  dog 0.93, person 0.31". If
    the masks are empty although there are tags, the line ends with "(not segmented)".
    """
    groups = [
        list(group)
        for _, group in groupby(frames, lambda frame: (bool(frame.area), frozenset(word for word, _ in frame.heard)))
    ]
    for group in groups[:MAX_LINES]:
        max_probabilities: dict[str, float] = {}
        for frame in group:
            for word, weight in frame.heard:
                max_probabilities[word] = max(max_probabilities.get(word, 0.0), weight)
        ranked = sorted(max_probabilities.items(), key=lambda item: -item[1])
        words = ", ".join(f"{word} {weight:.2f}" for word, weight in ranked)
        empty = " (not segmented)" if words and not group[0].area else ""
        yield f"{clock(group[0].start)}-{clock(group[-1].end)}  {words or no_word(group[0])}{empty}"
    if len(groups) > MAX_LINES:
        yield f"... and {len(groups) - MAX_LINES} more in segmentation.json"


def no_word(frame: FrameMask) -> str:
    """Return the text for a mask without tags. A model without class names segments masks without tags."""
    return "a sound without a name" if frame.area else "nothing"


def clock(seconds: float) -> str:
    """Format as minutes and seconds, as in 1:05; with hundredths if not zero, as for masks at a high fps."""
    minutes, hundredths = divmod(round(100 * seconds), 6000)
    return f"{minutes}:{hundredths // 100:02}" + (f".{hundredths % 100:02}" if hundredths % 100 else "")
