"""Packets of an open file: what they say about its length, whether that can be true, and what is decoded from them.

What is damaged is skipped, as players do, and counted.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import av
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition

from icf_avs.errors import UserError
from icf_avs.media.container import fix_part_timestamps
from icf_avs.media.repairs import Clock, Repaired, Run, Runs

_UNCONCEALED = {"vp8", "vp9", "av1", "libdav1d"}  # decoders that build on a frame that is lost as if it were there
_TRIES = 10  # to read on behind a damaged place of the container


def read_packets(
    container: av.container.InputContainer, *streams: av.stream.Stream, damaged: list[str] | None = None
) -> Iterator[av.Packet]:
    """As `container.demux`, also where a stream begins in the middle of the file: such a one is left out.

    damaged: gets a line for each place where the container cannot be read; what is behind it is read on.
    """
    tries = _TRIES
    while tries:
        try:
            for packet in container.demux(*streams):
                tries = _TRIES if packet.size else tries
                yield fix_part_timestamps(container, packet)
            return
        except IndexError:  # of PyAV, when all packets are read and it closes streams that it does not know
            return
        except FFmpegError as error:
            if isinstance(error, OSError):  # of the disk, not of the file
                raise
            tries -= 1
            if damaged is not None:
                damaged.append(str(error))


def decode_frames(
    container: av.container.InputContainer, stream: av.stream.Stream, clock: Clock, repaired: Repaired, first: int = 0,
    after: float = -math.inf,
) -> Generator[av.frame.Frame | None, None, tuple[int, float] | None]:  # fmt: skip
    """Every frame of a stream in order, on the clock; None in place of a packet that cannot be decoded.

    Such packets are noted in `repaired`, but for those before the first key frame of a recording that starts between
    two. Where a key frame is lost, or a decoder conceals nothing, frames are left out up to the next key frame.
    Raises TooDamaged.
    Where several threads decode, a packet that is damaged near the end takes whole frames behind it along. Returned is
    then what to give as `first`, the packet to begin with, and `after`, the frame to go on behind, for a single thread.
    """
    begun, key, waiting = False, 0, False
    recent: deque[bool] = deque(maxlen=16)  # as many threads as FFmpeg takes by itself
    given = there = after  # greatest time stamps, of frames and of packets
    for number, packet in enumerate(clock.applied(read_packets(container, stream))):
        if packet.size:
            if number < first:
                continue
            key = number if packet.is_keyframe else key
            recent.append(packet.is_keyframe)
            if packet.pts is not None and not packet.is_discard:
                there = max(there, packet.pts)
        frames = decode_packet(packet)
        begun |= bool(frames) or (frames is None and packet.is_keyframe)
        if frames is None and begun:
            repaired.skip(stream.type, number)
            # which of the packets that are decoded at the same time it is, nobody says
            at_once = [*recent][-1 - stream.codec_context.thread_count :]
            waiting = any(at_once) or stream.codec_context.name in _UNCONCEALED
            yield None
        for frame in frames or ():
            waiting = waiting and stream.type == "video" and not frame.key_frame
            if not waiting and (frame.pts is None or frame.pts > after):
                given = given if frame.pts is None else max(given, frame.pts)
                yield frame
    return (key, given) if -math.inf < given < there else None


def decode_packet(packet: av.Packet) -> list[av.frame.Frame] | None:
    """The frames that come with a packet; None if it cannot be decoded."""
    try:
        return packet.decode()
    except FFmpegError:
        return None


# Containers that state their length up front, so that a file which breaks off can be told from a short one.
_STATES_LENGTH = {"mov", "matroska", "avi", "flv", "asf"}
MOST_PIXELS = 8192 * 4320  # of a frame: 8K; more would need gigabytes
_LONGEST_GAP = 600.0  # seconds without a new frame and without sound; a clock that goes further forward jumps
_LONGEST_GAP_OF_BROADCASTS = 10.0  # where the clock may jump by the rules of the container; as FFmpeg has it
# Bytes behind the last packet that an index may take: of the file, or in all and for each packet.
_INDEX, _INDEX_BYTES, _INDEX_OF_PACKET = 0.25, 1 << 20, 64
_LONG_INDEX = {"mov", "wtv"}  # may take more
JUMP = 0.05  # seconds: sound whose time stamps stray further from where it should be has a hole or an overlap


class Scan:
    """What the packets of a file say, without decoding more than one frame."""

    def __init__(
        self, container: av.container.InputContainer, video: av.video.stream.VideoStream,
        audio: av.audio.stream.AudioStream | None, path: Path,
    ) -> None:  # fmt: skip
        """Raises UserError without a frame that can be decoded, or for its size."""
        self._may_jump = bool(container.format.flags & Flags.ts_discont.value)
        self._video, self._audio = video.index, -1 if audio is None else audio.index
        self.frame_length = 1 / float(video.guessed_rate or video.average_rate or 25)  # of one that does not say it
        self.runs = Runs(_LONGEST_GAP_OF_BROADCASTS if self._may_jump else _LONGEST_GAP, self.frame_length)
        self.first_frame: av.VideoFrame | None = None
        self._first_frame_run: Run | None = None  # that it is of; None without time stamps
        self._first: float | None = None  # when the file means to show its first frame, which may be damaged
        self.num_frames = 0  # packets of frames that are shown
        self.num_audio_packets = 0  # packets of sound
        self.unbroken = True  # each packet of sound is as long as the first, and begins where the one before it ends
        self.reach: dict[int, float] = {}  # the end of each stream by its own time stamps, what is hidden counted
        self.behind = 0  # the byte behind the last packet
        self._incomplete: list[tuple[int, int]] = []  # streams and numbers of packets that lack something
        self._length = math.inf  # of the first packet of sound, in seconds
        self.damaged: list[str] = []  # a line for each place where the container cannot be read
        for packet in read_packets(container, damaged=self.damaged):
            self._add(packet)
        if self.first_frame is None or not self.num_frames:
            raise UserError(f"{path}: not one frame of it can be decoded; re-encode it as H.264")
        check_size(self.first_frame.width, self.first_frame.height, path)

    def _add(self, packet: av.Packet) -> None:
        index = packet.stream.index  # not packet.stream_index, which is 0 in every packet that ends a stream
        is_video, is_audio = index == self._video, index == self._audio
        stamp, pts = packet.pts if packet.dts is None else packet.dts, packet.dts if packet.pts is None else packet.pts
        time, length = float((pts or 0) * packet.time_base), float((packet.duration or 0) * packet.time_base)
        run = None
        if packet.size:
            is_placed = stamp is not None and (is_video or is_audio)
            run = self.runs.add(packet, float(stamp * packet.time_base) if is_placed else None)
        if is_video and self.first_frame is None:
            self._decode_first(packet, run, time)
        if not packet.size:  # ends a stream
            return
        self.behind = max(self.behind, (packet.pos or 0) + packet.size)
        if packet.is_corrupt and (is_video or is_audio):
            self._incomplete.append((index, self.runs.counts[index]))
        self.num_audio_packets += is_audio
        self.num_frames += is_video and not packet.is_discard
        if stamp is None:
            self.unbroken &= not is_audio
            return
        if is_audio:  # a hole may be told as a packet that lasts on
            if self.num_audio_packets == 1:
                self._length = length
            self.unbroken &= abs(self.reach.get(index, time) - time) <= JUMP and length <= self._length + JUMP
        self.reach[index] = max(self.reach.get(index, time + length), time + length)
        if run is not None and not packet.is_discard:
            # the last frame lasts at least a moment, even where no duration is written
            run.show(time, max(length, min(0.5, self.frame_length)) if is_video else length)

    def _decode_first(self, packet: av.Packet, run: Run | None, time: float) -> None:
        # A broadcast is recorded from anywhere between two key frames on: what lies before the first is no part of it.
        begins = packet.is_keyframe or not self._may_jump
        if self._first is None and run is not None and packet.pts is not None and begins and not packet.is_discard:
            self._first, self._first_frame_run = time, run
        self.first_frame = next(iter(decode_packet(packet) or ()), None)
        if self.first_frame is not None and self._first_frame_run is None:
            self._first_frame_run = run

    @property
    def incomplete(self) -> int:
        """Packets that lack something. At the end of a run it only seems so, as the next packet is of another one."""
        return sum(not self.runs.ends_at(stream, number) for stream, number in self._incomplete)

    @property
    def missing(self) -> float:
        """Seconds from the start to the first frame that can be decoded."""
        shown = self.first_frame.time
        return 0.0 if self._first is None or shown is None else max(0.0, shown - self._first)

    @property
    def start(self) -> float | None:
        """When the first frame is shown, on the continuous clock, also where it is damaged; None without time stamps.

        To be requested when the runs are placed.
        """
        if self.first_frame.time is None or self._first_frame_run is None:
            return None
        return self.first_frame.time - self.missing + self._first_frame_run.moved


def check_size(width: int, height: int, path: Path) -> None:
    """Raise UserError for frames that are larger than 8K."""
    if width * height > MOST_PIXELS:
        raise UserError(f"{path}: its frames are {width} x {height}, larger than 8K; scale it down first")


def unread_bytes(container: av.container.InputContainer, scan: Scan, size: int, others: Iterable[int]) -> int:
    """Bytes at the end of a file of so many that hold no packet; 0 where they are no more than an index may take.

    others: where another file seems to begin in it, of which it is said in any case.
    """
    rest = size - scan.behind
    if not scan.behind:
        return 0  # no packet says where it is
    if any(begin >= scan.behind for begin in others):
        return rest
    index = min(_INDEX * size, _INDEX_BYTES + _INDEX_OF_PACKET * scan.runs.counts.total())
    return rest if rest > index and _kind(container) not in _LONG_INDEX else 0


def check_whole(container: av.container.InputContainer, scan: Scan, path: Path, begin: int = 0) -> None:
    """Raise UserError if the file, which begins at a byte of that at `path`, holds clearly less than its header
    promises.
    """
    kind = _kind(container)
    if kind not in _STATES_LENGTH or (kind == "mov" and _is_fragmented(path, begin)):
        return
    there, stated = max(scan.reach.values(), default=0.0), (container.duration or 0) / av.time_base
    lacks = stated - there
    if kind == "mov":  # states the length of every stream: the frames may end before the sound, as stated
        for stream in (*container.streams.video, *container.streams.audio):
            if stream.duration and not stream.disposition & Disposition.attached_pic:
                first = float((stream.start_time or 0) * stream.time_base)
                end = first + float(stream.duration * stream.time_base)
                lacks = max(lacks, end - scan.reach.get(stream.index, first))
    if kind == "avi":  # counts its frames in the header; the library's own duration is that of what is there
        for stream in container.streams.video:
            lacks = max(lacks, float(stream.frames * stream.time_base) - scan.reach.get(stream.index, 0.0))
        stated = there + lacks
    if lacks > min(0.5, 0.05 * stated) + 0.04:
        whole = max(stated, there + lacks)
        raise UserError(f"{path}: cut short, {whole - lacks:.2f} of {whole:.2f} s are there; copy or download it again")


def _kind(container: av.container.InputContainer) -> str:
    return container.format.name.split(",")[0]


def _is_fragmented(path: Path, begin: int) -> bool:
    """Whether an MP4 was written piece by piece, as recordings are: then its length is that of what is there."""
    with path.open("rb") as file:
        file.seek(begin)
        while len(head := file.read(8)) == 8 and head[4:] != b"moof":
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if size < 8:  # the last box, or none
                return False
            file.seek(size - 8, os.SEEK_CUR)
    return head[4:] == b"moof"
