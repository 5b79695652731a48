"""Read and decode the packets of an open file: its duration, a check that the file is complete, and its frames.

Damaged packets are skipped, as in players, and counted.
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

_UNCONCEALED = {"vp8", "vp9", "av1", "libdav1d"}  # decoders that continue after a lost frame without concealment
_MAX_TRIES = 10  # attempts to continue reading after a damaged place of the container


def read_packets(
    container: av.container.InputContainer, *streams: av.stream.Stream, damaged: list[str] | None = None
) -> Iterator[av.Packet]:
    """As `container.demux`, but tolerates streams that begin in the middle of the file; these are left out.

    damaged: a line is appended for each damaged place of the container; reading continues after it.
    """
    tries = _MAX_TRIES
    while tries:
        try:
            for packet in container.demux(*streams):
                tries = _MAX_TRIES if packet.size else tries
                yield fix_part_timestamps(container, packet)
            return
        except IndexError:  # from PyAV at the end of the file, when it closes streams unknown to it
            return
        except FFmpegError as error:
            if isinstance(error, OSError):  # a disk error, not a damaged file
                raise
            tries -= 1
            if damaged is not None:
                damaged.append(str(error))


def decode_frames(
    container: av.container.InputContainer, stream: av.stream.Stream, clock: Clock, repaired: Repaired, first: int = 0,
    after: float = -math.inf,
) -> Generator[av.frame.Frame | None, None, tuple[int, float] | None]:  # fmt: skip
    """Yield every frame of a stream in order, on the clock; None in place of a packet that cannot be decoded.

    Such packets are recorded in `repaired`, except those before the first key frame of a recording that starts between
    key frames. If a key frame is lost, or the decoder has no error concealment, frames are dropped up to the next key
    frame. Raises TooDamaged.
    With multi-threaded decoding, a damaged packet near the end may also lose intact frames after it. The return value
    is then (`first`, `after`), the packet to start from and the last time stamp, for a second, single-threaded call.
    """
    has_decoded, key_frame_number, awaiting_key_frame = False, 0, False
    recent_key_flags: deque[bool] = deque(maxlen=16)  # FFmpeg's default limit of threads
    last_frame_pts = last_packet_pts = after  # greatest presentation time stamps, of yielded frames and of packets
    for number, packet in enumerate(clock.applied(read_packets(container, stream))):
        if packet.size:
            if number < first:
                continue
            key_frame_number = number if packet.is_keyframe else key_frame_number
            recent_key_flags.append(packet.is_keyframe)
            if packet.pts is not None and not packet.is_discard:
                last_packet_pts = max(last_packet_pts, packet.pts)
        frames = decode_packet(packet)
        has_decoded |= bool(frames) or (frames is None and packet.is_keyframe)
        if frames is None and has_decoded:
            repaired.skip(stream.type, number)
            # FFmpeg does not tell which of the packets decoded in parallel failed
            in_flight = [*recent_key_flags][-1 - stream.codec_context.thread_count :]
            awaiting_key_frame = any(in_flight) or stream.codec_context.name in _UNCONCEALED
            yield None
        for frame in frames or ():
            awaiting_key_frame = awaiting_key_frame and stream.type == "video" and not frame.key_frame
            if not awaiting_key_frame and (frame.pts is None or frame.pts > after):
                last_frame_pts = last_frame_pts if frame.pts is None else max(last_frame_pts, frame.pts)
                yield frame
    return (key_frame_number, last_frame_pts) if -math.inf < last_frame_pts < last_packet_pts else None


def decode_packet(packet: av.Packet) -> list[av.frame.Frame] | None:
    """Decode a packet to its frames; None if it cannot be decoded."""
    try:
        return packet.decode()
    except FFmpegError:
        return None


# Containers that state their duration in the header, so that a truncated file can be detected.
_FORMATS_WITH_DURATION = {"mov", "matroska", "avi", "flv", "asf"}
MAX_PIXELS = 8192 * 4320  # pixels of a frame (8K); more would need gigabytes
_MAX_GAP = 600.0  # seconds without a frame or audio; a larger step of the time stamps is a jump
_MAX_GAP_OF_BROADCASTS = 10.0  # for containers that allow jumps of the time stamps; FFmpeg's value
# Largest index after the last packet: a share of the file, and bytes in total plus bytes per packet.
_MAX_INDEX_SHARE, _MAX_INDEX_BYTES, _INDEX_BYTES_PER_PACKET = 0.25, 1 << 20, 64
_LONG_INDEX_FORMATS = {"mov", "wtv"}  # containers whose index may be larger
JUMP = 0.05  # seconds; a larger deviation of an audio time stamp from its expected value is a gap or an overlap


class Scan:
    """Facts from a scan of all packets of a file; only one frame is decoded."""

    def __init__(
        self, container: av.container.InputContainer, video: av.video.stream.VideoStream,
        audio: av.audio.stream.AudioStream | None, path: Path,
    ) -> None:  # fmt: skip
        """Scan the file. Raises UserError if no frame can be decoded or frames are too large."""
        self._may_jump = bool(container.format.flags & Flags.ts_discont.value)
        self._video, self._audio = video.index, -1 if audio is None else audio.index
        self.frame_length = 1 / float(video.guessed_rate or video.average_rate or 25)  # seconds; default
        self.runs = Runs(_MAX_GAP_OF_BROADCASTS if self._may_jump else _MAX_GAP, self.frame_length)
        self.first_frame: av.VideoFrame | None = None
        self._first_frame_run: Run | None = None  # run of that frame; None without time stamps
        self._first_frame_time: float | None = None  # presentation time of the first frame, even if damaged
        self.num_frames = 0  # packets of frames that are shown
        self.num_audio_packets = 0
        self.unbroken = True  # no audio packet is longer than the first, each begins where the previous one ends
        self.stream_ends: dict[int, float] = {}  # end of each stream by its time stamps, hidden packets included
        self.end_offset = 0  # offset of the byte after the last packet
        self._incomplete: list[tuple[int, int]] = []  # stream and number of each incomplete packet
        self._audio_packet_length = math.inf  # seconds; duration of the first audio packet
        self.damaged: list[str] = []  # a line for each damaged place of the container
        for packet in read_packets(container, damaged=self.damaged):
            self._add(packet)
        if self.first_frame is None or not self.num_frames:
            raise UserError(f"{path}: not one frame of it can be decoded; re-encode it as H.264")
        check_size(self.first_frame.width, self.first_frame.height, path)

    def _add(self, packet: av.Packet) -> None:
        index = packet.stream.index  # packet.stream_index is 0 in all end-of-stream packets
        is_video, is_audio = index == self._video, index == self._audio
        stamp, pts = packet.pts if packet.dts is None else packet.dts, packet.dts if packet.pts is None else packet.pts
        time, length = float((pts or 0) * packet.time_base), float((packet.duration or 0) * packet.time_base)
        run = None
        if packet.size:
            is_placed = stamp is not None and (is_video or is_audio)
            run = self.runs.add(packet, float(stamp * packet.time_base) if is_placed else None)
        if is_video and self.first_frame is None:
            self._decode_first(packet, run, time)
        if not packet.size:  # end of a stream
            return
        self.end_offset = max(self.end_offset, (packet.pos or 0) + packet.size)
        if packet.is_corrupt and (is_video or is_audio):
            self._incomplete.append((index, self.runs.counts[index]))
        self.num_audio_packets += is_audio
        self.num_frames += is_video and not packet.is_discard
        if stamp is None:
            self.unbroken &= not is_audio
            return
        if is_audio:  # a gap may be stored as a longer packet
            if self.num_audio_packets == 1:
                self._audio_packet_length = length
            self.unbroken &= (
                abs(self.stream_ends.get(index, time) - time) <= JUMP and length <= self._audio_packet_length + JUMP
            )
        self.stream_ends[index] = max(self.stream_ends.get(index, time + length), time + length)
        if run is not None and not packet.is_discard:
            # frames without a stored duration get a minimum duration
            run.show(time, max(length, min(0.5, self.frame_length)) if is_video else length)

    def _decode_first(self, packet: av.Packet, run: Run | None, time: float) -> None:
        # A recorded broadcast may start between key frames; frames before the first key frame are not part of it.
        begins = packet.is_keyframe or not self._may_jump
        if (
            self._first_frame_time is None
            and run is not None
            and packet.pts is not None
            and begins
            and not packet.is_discard
        ):
            self._first_frame_time, self._first_frame_run = time, run
        self.first_frame = next(iter(decode_packet(packet) or ()), None)
        if self.first_frame is not None and self._first_frame_run is None:
            self._first_frame_run = run

    @property
    def incomplete(self) -> int:
        """Number of incomplete packets. Those at the end of a run are not counted: there the flag is a false alarm,
        caused by the next packet, which belongs to another run.
        """
        return sum(not self.runs.ends_at(stream, number) for stream, number in self._incomplete)

    @property
    def missing(self) -> float:
        """Seconds from the start to the first frame that can be decoded."""
        shown = self.first_frame.time
        return 0.0 if self._first_frame_time is None or shown is None else max(0.0, shown - self._first_frame_time)

    @property
    def start(self) -> float | None:
        """Presentation time of the first frame, even if damaged, on the continuous clock; None without time stamps.

        Valid only after `Runs.clock` has placed the runs.
        """
        if self.first_frame.time is None or self._first_frame_run is None:
            return None
        return self.first_frame.time - self.missing + self._first_frame_run.shift


def check_size(width: int, height: int, path: Path) -> None:
    """Raise UserError for frames larger than 8K."""
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: its frames are {width} x {height}, larger than 8K; scale it down first")


def unread_bytes(container: av.container.InputContainer, scan: Scan, size: int, unused_offsets: Iterable[int]) -> int:
    """Number of bytes after the last packet of a file of `size` bytes; 0 if they may be an index.

    unused_offsets: offsets at which another file seems to begin; bytes that include one are always reported.
    """
    unread = size - scan.end_offset
    if not scan.end_offset:
        return 0  # packets without positions
    if any(begin >= scan.end_offset for begin in unused_offsets):
        return unread
    index = min(_MAX_INDEX_SHARE * size, _MAX_INDEX_BYTES + _INDEX_BYTES_PER_PACKET * scan.runs.counts.total())
    return unread if unread > index and _format_name(container) not in _LONG_INDEX_FORMATS else 0


def check_whole(container: av.container.InputContainer, scan: Scan, path: Path, begin: int = 0) -> None:
    """Raise UserError if the file is clearly shorter than its header states. begin: offset of the file in `path`, which
    may hold several.
    """
    kind = _format_name(container)
    if kind not in _FORMATS_WITH_DURATION or (kind == "mov" and _is_fragmented(path, begin)):
        return
    available, stated = max(scan.stream_ends.values(), default=0.0), (container.duration or 0) / av.time_base
    missing = stated - available
    if kind == "mov":  # states the duration of each stream; video may end before audio
        for stream in (*container.streams.video, *container.streams.audio):
            if stream.duration and not stream.disposition & Disposition.attached_pic:
                first = float((stream.start_time or 0) * stream.time_base)
                end = first + float(stream.duration * stream.time_base)
                missing = max(missing, end - scan.stream_ends.get(stream.index, first))
    if kind == "avi":  # states the number of frames; container.duration reflects the existing data
        for stream in container.streams.video:
            missing = max(missing, float(stream.frames * stream.time_base) - scan.stream_ends.get(stream.index, 0.0))
        stated = available + missing
    if missing > min(0.5, 0.05 * stated) + 0.04:
        full_length = max(stated, available + missing)
        there = f"{full_length - missing:.2f} of {full_length:.2f} s are there"
        raise UserError(f"{path}: cut short, {there}; copy or download it again")


def _format_name(container: av.container.InputContainer) -> str:
    return container.format.name.split(",")[0]


def _is_fragmented(path: Path, begin: int) -> bool:
    """True for a fragmented MP4, as recorders write it: its stated duration is that of the existing fragments."""
    with path.open("rb") as file:
        file.seek(begin)
        while len(head := file.read(8)) == 8 and head[4:] != b"moof":
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if size < 8:  # last box, or invalid
                return False
            file.seek(size - 8, os.SEEK_CUR)
    return head[4:] == b"moof"
