"""What the packets of a video file say about its length, and whether that can be true."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av
from av.error import FFmpegError
from av.stream import Disposition

from icf_avs.errors import UserError

# Containers that state their length up front, so that a file which breaks off can be told from a short one.
_STATES_LENGTH = {"mov", "matroska", "avi", "flv", "asf"}
_LONGEST = 24  # hours
_LONGEST_HOLE = 10  # minutes without a new picture and without sound; a clock that jumps further is a broken one
JUMP = 0.05  # seconds: sound whose time stamps stray further from where it should be has a hole or an overlap


@dataclass
class Scan:
    """What the packets of a file say, without decoding more than one picture."""

    video: int  # index of the stream of its pictures
    audio: int  # and of its sound; -1 without
    picture: av.VideoFrame | None = None
    pictures: int = 0  # packets of pictures that are shown
    sounds: int = 0  # packets of sound
    unbroken: bool = True  # each packet of sound is as long as the first, and begins where the one before it ends
    length: float = math.inf  # of the first packet of sound, in seconds
    corrupt: bool = False
    last: float | None = None  # container time of the last shown picture; None without time stamps
    ends: dict[int, float] = field(default_factory=dict)  # of each stream, container time
    minutes: set[int] = field(default_factory=set)  # of the container's time, with a picture or sound in them

    def add(self, packet: av.Packet) -> None:
        """Take note of the next packet of the file."""
        index = packet.stream.index  # not packet.stream_index, which is 0 in every packet that ends a stream
        is_video = index == self.video
        if is_video and self.picture is None:
            self.picture = next(iter(tolerant(packet)), None)
        if not packet.size:  # ends a stream
            return
        self.corrupt |= packet.is_corrupt
        is_audio = index == self.audio
        self.sounds += is_audio
        shown = is_video and not packet.is_discard
        self.pictures += shown
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            self.unbroken &= not is_audio
            return
        time = float(stamp * packet.time_base)
        length = float((packet.duration or 0) * packet.time_base)
        end = time + length
        if is_audio:  # a hole may be told as a packet that lasts on
            if self.sounds == 1:
                self.length = length
            self.unbroken &= abs(self.ends.get(index, time) - time) <= JUMP and length <= self.length + JUMP
        self.ends[index] = max(self.ends.get(index, end), end)
        if is_audio or shown:
            self.minutes.add(int(time // 60))
        if shown:
            self.last = time if self.last is None else max(self.last, time)


def tolerant(packet: av.Packet) -> list:
    """Decode a packet; a recording that starts between two key frames gives errors until the first one."""
    try:
        return packet.decode()
    except FFmpegError:
        return []


def check_span(scan: Scan, start: float, end: float, path: Path) -> None:
    """Raise UserError for pictures that last longer than a day, or time stamps that jump by more than minutes."""
    if end - start > _LONGEST * 3600:
        raise UserError(
            f"{path}: lasts {(end - start) / 3600:.0f} hours by its time stamps; cut it into parts of at most "
            f"{_LONGEST} hours, or re-encode it"
        )
    marks = sorted({*scan.minutes, int(start // 60), int(end // 60)})
    for before, after in pairwise(marks):
        if after - before > _LONGEST_HOLE:
            raise UserError(
                f"{path}: its time stamps jump by {after - before} minutes {before - start / 60:.0f} minutes into it; "
                "re-encode it, or cut it there"
            )


def check_whole(container: av.container.InputContainer, scan: Scan, path: Path) -> None:
    """Raise UserError if the file holds clearly less than its header promises, or a packet that is cut off."""
    kind = container.format.name.split(",")[0]
    if kind not in _STATES_LENGTH:
        return
    there, stated = max(scan.ends.values(), default=0.0), (container.duration or 0) / av.time_base
    lacks = stated - there
    if kind == "mov":  # states the length of every stream: the pictures may end before the sound, as stated
        for stream in (*container.streams.video, *container.streams.audio):
            if stream.duration and not stream.disposition & Disposition.attached_pic:
                begin = float((stream.start_time or 0) * stream.time_base)
                end = begin + float(stream.duration * stream.time_base)
                lacks = max(lacks, end - scan.ends.get(stream.index, begin))
    if kind == "avi":  # counts its pictures in the header; the library's own duration is that of what is there
        for stream in container.streams.video:
            lacks = max(lacks, float(stream.frames * stream.time_base) - scan.ends.get(stream.index, 0.0))
        stated = there + lacks
    if scan.corrupt or lacks > min(0.5, 0.05 * stated) + 0.04:
        whole = max(stated, there + lacks)
        raise UserError(
            f"{path}: cut short, {whole - max(lacks, 0):.2f} of {whole:.2f} s are there; copy or download it again"
        )
