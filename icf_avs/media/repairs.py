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

_MAX_STEP_BACK = 0.1  # seconds; a key frame's time stamp that goes back further starts a new run, less is rounding
_MAX_START_DISTANCE = 10.0  # seconds; largest distance between the starts of video and audio of one recording
_MAX_LOST_AUDIO = 0.25  # seconds of audio that may be lost between two recordings so that their frames are contiguous
_NUM_LAST_PACKETS = 3  # packets at the end of a run that a parser may wrongly flag as damaged
_MAX_REORDERING = 60  # seconds between decoding and presentation; more is a damaged time stamp


@dataclass(frozen=True)
class Clock:
    """Shifts of the time stamps of each stream, which make them continuous."""

    shifts: dict[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)  # (from packet number, seconds), ...
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
                if None not in stamps and abs(packet.pts - packet.dts) * packet.time_base > _MAX_REORDERING:
                    packet.pts = packet.dts
                seconds = next((shift for first, shift in reversed(self.shifts.get(index, ())) if number >= first), 0.0)
                if ticks := round(seconds / packet.time_base):
                    packet.pts = None if packet.pts is None else packet.pts + ticks
                    packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet


@dataclass(eq=False)
class Run:
    """Packets of a stream with continuous time stamps. Times are those of the container, in seconds."""

    stream: int
    first: int  # number of its first packet in the stream
    first_stamp: float  # first time stamp
    last_stamp: float  # latest time stamp
    jump: float = 0.0  # first time stamp minus the latest of the previous run
    begin: float = math.inf  # presentation interval
    end: float = -math.inf
    latest: float = -math.inf  # latest start of a packet
    shortest: float = math.inf  # shortest duration of a packet
    paired_run: Run | None = None  # simultaneous run of the other stream
    shift: float = 0.0  # shift in seconds, once placed

    @property
    def beginning(self) -> float:
        return self.first_stamp if self.begin == math.inf else self.begin

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
            previous, run = run, Run(index, number, stamp, stamp)
            if previous is not None:
                run.jump = stamp - previous.last_stamp
                if previous.latest > -math.inf and previous.shortest < math.inf:
                    previous.end = previous.latest + previous.shortest  # a gap may be stored as a duration
            if (
                other is not None
                and other.paired_run is None
                and (previous is None or abs(stamp - other.first_stamp) <= _MAX_START_DISTANCE)
            ):
                run.paired_run, other.paired_run = other, run
            self._all.append(run)
            self._current[index] = run
        run.last_stamp = max(run.last_stamp, stamp)
        return run

    def ends_at(self, stream: int, number: int) -> bool:
        """True if a packet of a stream (numbered from 1) is among the last of a run that is followed by another."""
        return any(
            run.stream == stream and 0 <= run.first - number < _NUM_LAST_PACKETS for run in self._all if run.first
        )

    def _jumps(self, run: Run, other: Run | None, packet: av.Packet, stamp: float) -> bool:
        forward = stamp - run.last_stamp
        if -forward > (_MAX_STEP_BACK if packet.is_keyframe else 1 + 16 * self._frame_length):
            return True
        if forward > self._gap and (other is None or stamp - other.last_stamp > self._gap):
            return True
        # Only the other stream has jumped so far: is this stamp closer to that stream after its jump than before?
        if other is None or other.paired_run is not None or abs(other.jump) < 1 or forward < _MAX_LOST_AUDIO:
            return False
        return abs(stamp - other.last_stamp) < abs(stamp - (other.last_stamp - other.jump))

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
            group = [run] if run.paired_run is None else [run, run.paired_run]
            placed.update(group)
            needed_shifts = {each.stream: ends[each.stream] - each.beginning for each in group if each.stream in ends}
            latest = max(needed_shifts.values(), default=0.0)
            shift = needed_shifts.get(video, latest)
            if latest > shift + _MAX_LOST_AUDIO:
                shift = latest
            if len(group) == 1 and run.stream in ends:
                shift = self._shift_of_single_run(run, shift)
            for member in group:
                member.shift = shift
                ends[member.stream] = max(ends.get(member.stream, -math.inf), max(member.end, member.beginning) + shift)
            if any(member.first for member in group):
                jumps.append(min(member.beginning for member in group) + shift)
        shifts = {
            stream: tuple((run.first, run.shift) for run in self._all if run.stream == stream)
            for stream in {run.stream for run in self._all if run.shift}
        }
        return Clock(shifts, tuple(jumps), dict(self.counts)), ends

    def _shift_of_single_run(self, run: Run, default: float) -> float:
        """Return the shift of an unpaired run: that of an earlier run of the stream if it fits, else `default`."""
        earlier = [other.shift for other in self._all if other.stream == run.stream and other.first < run.first]
        if abs(run.jump) < 1:
            return earlier[-1]
        return next((shift for shift in reversed(earlier) if abs(shift - default) < 0.5), default)


MAX_DAMAGED_SHARE = 0.5  # share of damaged video or audio packets above which a file is rejected


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
        if len(lost) > MAX_DAMAGED_SHARE * count:
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
        return {name: value for name, value, _ in self._rows()}

    def lines(self) -> list[str]:
        """Return the repairs as lines of text."""
        return [line for _, _, line in self._rows()]

    def _rows(self) -> list[tuple[str, Any, str]]:
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
             f"channels of its sound cancel each other in some {self.cancelled:.1f} s: one of them is left out there"),
            ("grown", self.grown, "the file has grown meanwhile: what came after the first scan is left out"),
        ]  # fmt: skip
        return [row for row in rows if row[1]]
