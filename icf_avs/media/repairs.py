"""What is damaged in a video that is read all the same, as players do, and is reported with every result.

And one clock for a file whose time stamps begin anew or jump: joined recordings, a counter that starts again, a gap.

A stream is cut into runs wherever its time stamps go back, or further forward than a gap may be. Runs of frames and
of sound that begin together are of one recording and are moved by the same time, so that they stay in step.
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

_BACK = 0.1  # seconds that a time stamp goes back where it begins anew; less is a rounding
_TOGETHER = 10.0  # seconds between the first time stamps of the frames and of the sound of one recording
_OVERLAP = 0.25  # seconds of sound that may be lost where two recordings meet, for their frames to meet
_LAST = 3  # packets of a run that a parser may take for damaged as the next one does not go on from them
_REORDERED = 60  # seconds between decoding and showing a frame; more is a damaged time stamp


@dataclass(frozen=True)
class Clock:
    """By how much the time stamps of each stream are moved."""

    moves: dict[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)  # (from packet number, seconds), ...
    jumps: tuple[float, ...] = ()  # where time stamps begin anew or jump, in seconds of the continuous clock
    counts: dict[int, int] = field(default_factory=dict)  # packets of each stream; of a file that grows, at the scan

    def applied(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Packets of a file from its beginning, with continuous time stamps, as many as there were."""
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
    """Packets of a stream whose time stamps go on from one to the next. Times are the container's."""

    stream: int
    first: int  # number of its first packet in the stream
    at: float  # its first time stamp
    now: float  # its latest
    jump: float = 0.0  # from the latest of the run before to its first
    begin: float = math.inf  # of what is shown or heard
    end: float = -math.inf
    latest: float = -math.inf  # beginning of a packet
    shortest: float = math.inf  # length of a packet
    mate: Run | None = None  # the run of the other stream that was recorded with it
    moved: float = 0.0  # seconds, once it is placed

    @property
    def beginning(self) -> float:
        return self.at if self.begin == math.inf else self.begin

    def show(self, begin: float, length: float) -> None:
        """Take note of what is shown or heard of a packet."""
        self.begin, self.end = min(self.begin, begin), max(self.end, begin + length)
        self.latest, self.shortest = max(self.latest, begin), min(self.shortest, length or self.shortest)


class Runs:
    """Finds the runs of the frames and of the sound of a file."""

    def __init__(self, longest_gap: float, frame_length: float) -> None:
        """longest_gap: seconds without a frame or sound; frame_length: of a frame that does not say how long it is
        shown.
        """
        self._gap, self._frame_length = longest_gap, frame_length
        self._all: list[Run] = []
        self._current: dict[int, Run] = {}
        self.counts: Counter[int] = Counter()  # packets of each stream so far

    def add(self, packet: av.Packet, stamp: float | None) -> Run | None:
        """The run that the next packet of a stream belongs to; stamp: when it is decoded; None where it is not known or
        the stream is not used: such packets are counted alone.
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
                    before.end = before.latest + before.shortest  # a gap may be told as a length
            if other is not None and other.mate is None and (before is None or abs(stamp - other.at) <= _TOGETHER):
                run.mate, other.mate = other, run
            self._all.append(run)
            self._current[index] = run
        run.now = max(run.now, stamp)
        return run

    def ends_at(self, stream: int, number: int) -> bool:
        """Whether a packet of a stream, counted from 1, is among the last of a run that another one follows."""
        return any(run.stream == stream and 0 <= run.first - number < _LAST for run in self._all if run.first)

    def _jumps(self, run: Run, other: Run | None, packet: av.Packet, stamp: float) -> bool:
        forward = stamp - run.now
        if -forward > (_BACK if packet.is_keyframe else 1 + 16 * self._frame_length):
            return True
        if forward > self._gap and (other is None or stamp - other.now > self._gap):
            return True
        # The other stream has jumped, alone so far: has this one gone with it, though its own seem to go on?
        if other is None or other.mate is not None or abs(other.jump) < 1 or forward < _OVERLAP:
            return False
        return abs(stamp - other.now) < abs(stamp - (other.now - other.jump))

    def clock(self, video: int) -> tuple[Clock, dict[int, float]]:
        """Put one recording behind the other: their frames meet, or their sound where that lasts longer.

        With the clock comes the end of each stream on it.
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
        """A stream that jumps alone goes on where it was, or comes back to where it would be without its jumps."""
        earlier = [one.moved for one in self._all if one.stream == run.stream and one.first < run.first]
        if abs(run.jump) < 1:
            return earlier[-1]
        return next((one for one in reversed(earlier) if abs(one - moved) < 0.5), moved)


MOST_DAMAGED = 0.5  # of the frames or of the sound; beyond, a file is refused


class TooDamaged(Exception):
    """Too little remains of the video or of the sound, as the argument says."""


@dataclass
class Repaired:
    """Filled while the video is read. A packet is a frame, or some 20 ms of sound."""

    num_video_packets: int = 0  # packets of video in the file
    num_audio_packets: int = 0
    damaged_video: set[int] = field(default_factory=set)  # numbers of packets that cannot be decoded
    damaged_audio: set[int] = field(default_factory=set)
    places: int = 0  # where the container is damaged
    incomplete: int = 0  # packets that lack something, as the last one of a recording that breaks off
    parts: int = 1  # files one behind the other that the file consists of
    unread: int = 0  # bytes at the end of the file, or of such a part, that hold nothing that can be read
    missing: float = 0.0  # seconds of frames at the beginning of which none can be decoded
    jumps: tuple[float, ...] = ()  # seconds at which the file's time stamps begin anew or jump
    cancelled: float = 0.0  # seconds of sound whose channels cancel each other in their mean (audio_file.py)
    size: int = 0  # bytes of the file when it was scanned
    grown: bool = False

    def skip(self, kind: str, number: int) -> None:
        """A packet of a stream ("video" or "audio") cannot be decoded. Raises TooDamaged if too many cannot."""
        lost, count = self.damaged_audio, self.num_audio_packets
        if kind == "video":
            lost, count = self.damaged_video, self.num_video_packets
        lost.add(number)
        if len(lost) > MOST_DAMAGED * count:
            raise TooDamaged("video" if kind == "video" else "sound")

    def restore(self, seconds: float) -> None:
        """In so many seconds one channel is used in place of the mean of all."""
        self.cancelled += seconds

    def check_growth(self, path: Path) -> None:
        """Note whether the file has grown since it was scanned."""
        with suppress(OSError):  # gone: then it has not grown
            self.grown = path.stat().st_size > self.size

    def document(self) -> dict[str, Any]:
        """For segmentation.json: what was repaired, only what there is."""
        return {name: value for name, value, _ in self._found()}

    def lines(self) -> list[str]:
        """For people."""
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
