"""sounds.srt: subtitles that say what sounds when."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import av
from av.error import FFmpegError

from icf_avs.atomic_io import written_file
from icf_avs.media.container import local_url

if TYPE_CHECKING:
    from icf_avs.results import FrameMask, Segmentation

# A line comes at one probability and goes below another, stays over short breaks and long enough to be read: no flicker
COMES, GOES = 0.5, 0.3
BREAK = 1.0  # seconds; a shorter silence does not end a line
SHORTEST = 0.5  # seconds
UNNAMED = "[sound]"  # what is segmented by a model without names
_CLOCK = Fraction(1, 1000)  # the format's own


class Subtitle(NamedTuple):
    """What is shown from `start` to `end`, in seconds: the words that sound, the one that began first on top."""

    start: float
    end: float
    words: tuple[str, ...]


class _Span(NamedTuple):
    start: float
    end: float
    word: str


def subtitles(frames: Sequence[FrameMask]) -> list[Subtitle]:
    """What sounds when, in order and without overlap; a stretch in which there is no tag has no subtitle."""
    spans = sorted(span for word, on in _sounding(frames).items() for span in _spans(frames, word, on))
    found: list[Subtitle] = []
    for start, end in pairwise(sorted({time for span in spans for time in span[:2]})):
        shown = tuple(span.word for span in spans if span.start <= start < span.end)
        if shown and found and found[-1].end == start and found[-1].words == shown:
            found[-1] = found[-1]._replace(end=end)
        elif shown:
            found.append(Subtitle(start, end, shown))
    return found


def _sounding(frames: Sequence[FrameMask]) -> dict[str, list[bool]]:
    """Each word, and whether it sounds in each frame: with hysteresis; where something is segmented and no tag
    sounds as surely, the likeliest.
    """
    words = {word for frame in frames for word, _ in frame.heard}
    on = {word: [False] * len(frames) for word in (*words, UNNAMED)}
    for index, frame in enumerate(frames):
        heard = dict(frame.heard)
        for word in words:
            on[word][index] = heard.get(word, 0.0) >= (GOES if index and on[word][index - 1] else COMES)
        if frame.area and not any(sounds[index] for sounds in on.values()):
            on[frame.heard[0][0] if heard else UNNAMED][index] = True
    return on


def _spans(frames: Sequence[FrameMask], word: str, on: Sequence[bool]) -> list[_Span]:
    """When a word sounds: short breaks closed, short spans lengthened up to the end of the video."""
    spans: list[_Span] = []
    for frame, sounds in zip(frames, on, strict=True):
        if sounds and spans and frame.start - spans[-1].end < BREAK - 1e-6:
            spans[-1] = spans[-1]._replace(end=frame.end)
        elif sounds:
            spans.append(_Span(frame.start, frame.end, word))
    return [span._replace(end=max(span.end, min(span.start + SHORTEST, frames[-1].end))) for span in spans]


def write_srt(segmentation: Segmentation, path: Path) -> None:
    """Write the subtitles in the SubRip format, UTF-8."""
    with written_file(path, errors=(FFmpegError,)) as new, av.open(local_url(new), "w", format="srt") as container:
        stream = container.add_stream("subrip")
        stream.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n"  # FFmpeg wants one to begin
        container.start_encoding()
        for shown in subtitles(segmentation.frames):
            packet = av.Packet("\n".join(" ".join(word.split()) for word in shown.words).encode())
            packet.stream, packet.time_base = stream, _CLOCK
            packet.pts = packet.dts = round(shown.start / _CLOCK)
            packet.duration = round(shown.end / _CLOCK) - packet.pts
            container.mux(packet)
