"""Record the damage in a video that is read nevertheless, and map discontinuous time stamps to one continuous clock.

The damage is reported with every result. Time stamps restart or jump in joined recordings, when a counter wraps, and at
gaps.

A stream is cut into runs where its time stamps go back, or forward by more than the longest allowed gap. Video and
audio runs that begin together belong to one recording and are shifted by the same time, so they stay synchronised.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

_BACK = 0.1  # seconds; a key frame's time stamp that goes back further starts a new run, less is rounding
_TOGETHER = 10.0  # seconds; largest distance between the starts of video and audio of one recording
_OVERLAP = 0.25  # seconds of audio that may be lost between two recordings so that their frames are contiguous
_LAST = 3  # packets at the end of a run that a parser may wrongly flag as damaged
_REORDERED = 60  # seconds between decoding and presentation; more is a damaged time stamp


@dataclass(frozen=True)
class Clock:
    """Shifts of the time stamps of each stream, which make them continuous."""

    moves: dict[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)  # (from packet number, seconds), ...
    jumps: tuple[float, ...] = ()  # seconds of the continuous clock at which time stamps restart or jump
    counts: dict[int, int] = field(default_factory=dict)  # packets of each stream at the scan (the file may grow)

    def applied(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Yield the packets of a file with continuous time stamps; packets added after the scan are dropped."""
        numbers: Counter[int] = Counter()
        for packet in packets:
            index = packet.stream.index
            if packet.size:
                number = numbers[index]
                numbers[index] += 1
                if number >= self.counts.get(index, math.inf):
                    continue
                stamps = packet.pts, packet.dts
                if None not in stamps and abs(packet.pts - packet.dts) * packet.time_base > _REORDERED:
                    packet.pts = packet.dts
                seconds = next((move for first, move in reversed(self.moves.get(index, ())) if number >= first), 0.0)
                if ticks := round(seconds / packet.time_base):
                    packet.pts = None if packet.pts is None else packet.pts + ticks
                    packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet


@dataclass(eq=False)
class Run:
    """Packets of a stream with continuous time stamps. Times are those of the container, in seconds."""

    stream: int
    first: int  # number of its first packet in the stream
    at: float  # first time stamp
    now: float  # latest time stamp
    jump: float = 0.0  # first time stamp minus the latest of the previous run
    begin: float = math.inf  # presentation interval
    end: float = -math.inf
    latest: float = -math.inf  # latest start of a packet
    shortest: float = math.inf  # shortest duration of a packet
    mate: Run | None = None  # simultaneous run of the other stream
    moved: float = 0.0  # shift in seconds, once placed

    @property
    def beginning(self) -> float:
        return self.at if self.begin == math.inf else self.begin

    def show(self, begin: float, length: float) -> None:
        """Extend the presentation interval by that of a packet."""
        self.begin, self.end = min(self.begin, begin), max(self.end, begin + length)
        self.latest, self.shortest = max(self.latest, begin), min(self.shortest, length or self.shortest)


class Runs:
    """Finds the video and audio runs of a file."""

    def __init__(self, longest_gap: float, frame_length: float) -> None:
        """longest_gap: longest allowed gap in seconds; frame_length: default frame duration in seconds."""
        self._gap, self._frame_length = longest_gap, frame_length
        self._all: list[Run] = []
        self._current: dict[int, Run] = {}
        self.counts: Counter[int] = Counter()  # packets of each stream so far

    def add(self, packet: av.Packet, stamp: float | None) -> Run | None:
        """Add the next packet of a stream and return its run. stamp: decoding time in seconds; None if unknown or the
        stream is not used: then the packet is only counted.
        """
        index, number = packet.stream.index, self.counts[packet.stream.index]
        self.counts[index] += 1
        if stamp is None:
            return None
        run = self._current.get(index)
        other = next((other for stream, other in self._current.items() if stream != index), None)
        if run is None or self._jumps(run, other, packet, stamp):
            before, run = run, Run(index, number, stamp, stamp)
            if before is not None:
                run.jump = stamp - before.now
                if before.latest > -math.inf and before.shortest < math.inf:
                    before.end = before.latest + before.shortest  # a gap may be stored as a duration
            if other is not None and other.mate is None and (before is None or abs(stamp - other.at) <= _TOGETHER):
                run.mate, other.mate = other, run
            self._all.append(run)
            self._current[index] = run
        run.now = max(run.now, stamp)
        return run

    def ends_at(self, stream: int, number: int) -> bool:
        """True if a packet of a stream (numbered from 1) is among the last of a run that is followed by another."""
        return any(run.stream == stream and 0 <= run.first - number < _LAST for run in self._all if run.first)

    def _jumps(self, run: Run, other: Run | None, packet: av.Packet, stamp: float) -> bool:
        forward = stamp - run.now
        if -forward > (_BACK if packet.is_keyframe else 1 + 16 * self._frame_length):
            return True
        if forward > self._gap and (other is None or stamp - other.now > self._gap):
            return True
        # Only the other stream has jumped so far: is this stamp closer to that stream after its jump than before?
        if other is None or other.mate is not None or abs(other.jump) < 1 or forward < _OVERLAP:
            return False
        return abs(stamp - other.now) < abs(stamp - (other.now - other.jump))

    def clock(self, video: int) -> tuple[Clock, dict[int, float]]:
        """Place the recordings one after the other: their frames are contiguous, or their audio where it lasts longer.

        Return the clock and the end of each stream on it.
        """
        ends: dict[int, float] = {}
        jumps: list[float] = []
        placed: set[Run] = set()
        for run in self._all:
            if run in placed:
                continue
            group = [run] if run.mate is None else [run, run.mate]
            placed.update(group)
            needed = {one.stream: ends[one.stream] - one.beginning for one in group if one.stream in ends}
            latest = max(needed.values(), default=0.0)
            moved = needed.get(video, latest)
            if latest > moved + _OVERLAP:
                moved = latest
            if len(group) == 1 and run.stream in ends:
                moved = self._alone(run, moved)
            for one in group:
                one.moved = moved
                ends[one.stream] = max(ends.get(one.stream, -math.inf), max(one.end, one.beginning) + moved)
            if any(one.first for one in group):
                jumps.append(min(one.beginning for one in group) + moved)
        moves = {
            stream: tuple((run.first, run.moved) for run in self._all if run.stream == stream)
            for stream in {run.stream for run in self._all if run.moved}
        }
        return Clock(moves, tuple(jumps), dict(self.counts)), ends

    def _alone(self, run: Run, moved: float) -> float:
        """Return the shift of a run without a mate: that of an earlier run of the stream if it fits, else `moved`."""
        earlier = [one.moved for one in self._all if one.stream == run.stream and one.first < run.first]
        if abs(run.jump) < 1:
            return earlier[-1]
        return next((one for one in reversed(earlier) if abs(one - moved) < 0.5), moved)


MOST_DAMAGED = 0.5  # share of damaged video or audio packets above which a file is rejected


class TooDamaged(Exception):
    """Raised if too many packets of a stream are damaged; the argument names it, "video" or "sound"."""


@dataclass
class Repaired:
    """Damage found and repaired; updated while the video is read. A packet is a frame or about 20 ms of audio."""

    num_video_packets: int = 0  # in the file
    num_audio_packets: int = 0
    damaged_video: set[int] = field(default_factory=set)  # numbers of packets that cannot be decoded
    damaged_audio: set[int] = field(default_factory=set)
    places: int = 0  # damaged places of the container
    incomplete: int = 0  # incomplete packets, as the last one of an interrupted recording
    parts: int = 1  # concatenated files in the file
    unread: int = 0  # unreadable bytes at the end of the file or of its parts
    missing: float = 0.0  # seconds at the beginning in which no frame can be decoded
    jumps: tuple[float, ...] = ()  # seconds at which the file's time stamps restart or jump
    cancelled: float = 0.0  # seconds of audio whose channels cancel each other in the mean (audio_file.py)
    size: int = 0  # bytes of the file at the scan
    grown: bool = False

    def skip(self, kind: str, number: int) -> None:
        """Record an undecodable packet of a stream, "video" or "audio". Raises TooDamaged if there are too many."""
        lost, count = self.damaged_audio, self.num_audio_packets
        if kind == "video":
            lost, count = self.damaged_video, self.num_video_packets
        lost.add(number)
        if len(lost) > MOST_DAMAGED * count:
            raise TooDamaged("video" if kind == "video" else "sound")

    def restore(self, seconds: float) -> None:
        """Record that in so many seconds channels were left out of the mean."""
        self.cancelled += seconds

    def check_growth(self, path: Path) -> None:
        """Record whether the file has grown since the scan."""
        with suppress(OSError):  # the file was deleted
            self.grown = path.stat().st_size > self.size

    def document(self) -> dict[str, Any]:
        """Return the repairs for segmentation.json, without empty entries."""
        return {name: value for name, value, _ in self._found()}

    def lines(self) -> list[str]:
        """Return the repairs as lines of text."""
        return [line for _, _, line in self._found()]

    def _found(self) -> list[tuple[str, Any, str]]:
        video, audio, jumps = len(self.damaged_video), len(self.damaged_audio), [round(at, 3) for at in self.jumps]
        places = ", ".join(f"{second:.2f}" for second in self.jumps[:5]) + (", ..." if self.jumps[5:] else "")
        rows: list[tuple[str, Any, str]] = [
            ("damaged_pictures", video,
             f"{video} of {self.num_video_packets} packets of video are damaged: the last good one stays"),
            ("damaged_sound", audio,
             f"{audio} of {self.num_audio_packets} packets of sound are damaged: silence in their place"),
            ("damaged_places", self.places, f"the file is damaged at {self.places} places, which are skipped"),
            ("incomplete_packets", self.incomplete,
             f"{self.incomplete} packets are incomplete, as at the end of a recording that breaks off"),
            ("joined_files", self.parts if self.parts > 1 else 0,
             f"it consists of {self.parts} files one behind the other: all of them are read"),
            ("unread_bytes", self.unread,
             f"{self.unread:,} bytes at its end hold neither video nor sound that can be read"),
            ("missing_beginning", round(self.missing, 3),
             f"no frame of its first {self.missing:.2f} s can be decoded: the first good one is shown"),
            ("clock_jumps", jumps, f"its time stamps begin anew or jump at {places} s: put on one clock"),
            ("cancelled_channels", round(self.cancelled, 1),
             f"channels of its sound cancel each other in some {self.cancelled:.1f} s: one of them is used"),
            ("grown", self.grown, "the file has grown meanwhile: what came after the first scan is left out"),
        ]  # fmt: skip
        return [row for row in rows if row[1]]
