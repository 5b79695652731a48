"""sounds.srt: the audio tags as subtitles, in the SubRip format."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from icf_avs.results import FrameMask

# Hysteresis against flicker: a word appears at one probability and disappears below another.
APPEARS_AT, DISAPPEARS_BELOW = 0.5, 0.3
BREAK = 1.0  # seconds; a shorter pause does not end a word
SHORTEST = 0.5  # seconds; minimum duration, so that a word can be read
UNNAMED = "[sound]"  # for masks of a model without class names


class Subtitle(NamedTuple):
    """Words that are shown from `start` to `end`, in seconds, the earliest first."""

    start: float
    end: float
    words: tuple[str, ...]


def subtitles(frames: Sequence[FrameMask]) -> list[Subtitle]:
    """Return subtitles in order and without overlap; intervals without a tag have no subtitle."""
    spans = sorted(span for word, active in _sounding(frames).items() for span in _spans(frames, word, active))
    merged: list[Subtitle] = []
    for start, end in pairwise(sorted({time for span in spans for time in span[:2]})):
        visible = tuple(word for begin, until, word in spans if begin <= start < until)
        if visible and merged and merged[-1].end == start and merged[-1].words == visible:
            merged[-1] = merged[-1]._replace(end=end)
        elif visible:
            merged.append(Subtitle(start, end, visible))
    return merged


def _sounding(frames: Sequence[FrameMask]) -> dict[str, list[bool]]:
    """Return for each word whether it is active in each frame, with hysteresis. If something is segmented but no word
    is active, the likeliest is.
    """
    words = {word for frame in frames for word, _ in frame.heard}
    active = {word: [False] * len(frames) for word in (*words, UNNAMED)}
    for index, frame in enumerate(frames):
        heard = dict(frame.heard)
        for word in words:
            threshold = DISAPPEARS_BELOW if index and active[word][index - 1] else APPEARS_AT
            active[word][index] = heard.get(word, 0.0) >= threshold
        if frame.area and not any(sounds[index] for sounds in active.values()):
            active[frame.heard[0][0] if heard else UNNAMED][index] = True
    return active


def _spans(frames: Sequence[FrameMask], word: str, active: Sequence[bool]) -> list[tuple[float, float, str]]:
    """Return the intervals of a word: short pauses closed, short intervals extended, but not beyond the video."""
    spans: list[tuple[float, float]] = []
    for frame, is_active in zip(frames, active, strict=True):
        if is_active:
            continues = spans and frame.start - spans[-1][1] < BREAK - 1e-6
            spans.append((spans.pop()[0] if continues else frame.start, frame.end))
    return [(start, max(end, min(start + SHORTEST, frames[-1].end)), word) for start, end in spans]


def srt_text(frames: Sequence[FrameMask]) -> str:
    """Return the content of the .srt file."""
    blocks = []
    for number, (start, end, words) in enumerate(subtitles(frames), 1):
        lines = "\n".join(" ".join(word.split()) for word in words)
        blocks.append(f"{number}\n{_clock(start)} --> {_clock(end)}\n{lines}\n\n")
    return "".join(blocks)


def _clock(seconds: float) -> str:
    rest, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02},{milliseconds:03}"
