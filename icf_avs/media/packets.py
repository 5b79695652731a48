"""Packets of an open file, and what is decoded from them. What is damaged is skipped, as players do, and counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator

import av
from av.error import FFmpegError

from icf_avs.media.concatenated_files import fix_part_timestamps
from icf_avs.media.repairs import Repaired
from icf_avs.media.timestamp_repair import Clock

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
    after: int | None = None,
) -> Generator[av.frame.Frame | None, None, tuple[int, int] | None]:  # fmt: skip
    """Every frame of a stream in order, on the clock; None in place of a packet that cannot be decoded.

    Such packets are noted in `repaired`, but for those before the first key frame of a recording that starts between
    two. Where a key frame is lost, or a decoder conceals nothing, frames are left out up to the next key frame.
    Raises TooDamaged.
    Where several threads decode, a packet that is damaged near the end takes whole frames behind it along. Returned is
    then what to give as `first`, the packet to begin with, and `after`, the frame to go on behind, for a single thread.
    """
    begun, key, waiting = False, 0, False
    recent: deque[bool] = deque(maxlen=16)  # as many threads as FFmpeg takes by itself
    given, there = after, after  # greatest time stamps, of frames and of packets
    for number, packet in enumerate(clock.applied(read_packets(container, stream))):
        if number < first and packet.size:
            continue
        if packet.size and packet.is_keyframe:
            key = number
        if packet.size:
            recent.append(packet.is_keyframe)
        if packet.size and not packet.is_discard:
            there = _later(there, packet.pts)
        frames = decode_packet(packet)
        begun |= bool(frames) or (frames is None and packet.is_keyframe)
        if frames is None and begun:
            repaired.skip(stream.type, number)
            # which of the packets that are decoded at the same time it is, nobody says
            waiting = (
                any([*recent][-1 - stream.codec_context.thread_count :]) or stream.codec_context.name in _UNCONCEALED
            )
            yield None
        for frame in frames or ():
            waiting = waiting and stream.type == "video" and not frame.key_frame
            if waiting:
                continue
            if after is None or frame.pts is None or frame.pts > after:
                given = _later(given, frame.pts)
                yield frame
    return None if given is None or there is None or there <= given else (key, given)


def _later(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else max(one, other)


def decode_packet(packet: av.Packet) -> list[av.frame.Frame] | None:
    """The frames that come with a packet; None if it cannot be decoded."""
    try:
        return packet.decode()
    except FFmpegError:
        return None
