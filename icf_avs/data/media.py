"""A video file in, its pictures out, on one clock and in constant memory (its sound: audio_windows.py).

The clock: second 0 is the moment the first picture is shown. Everything here decodes forward and holds one or two
pictures at a time. Anything wrong with the file is a UserError of one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from icf_avs.errors import UserError

# Containers that state their length up front, so that a file which breaks off can be told from a short one.
_STATES_LENGTH = {"mov", "matroska", "avi", "flv", "asf"}


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned before it is shown: transposed first, then mirrored."""

    transposed: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Read the display matrix [a b u; c d v; ...] of a frame: shown x = a x + c y, shown y = b x + d y."""
        data = frame.side_data.get(SideData.DISPLAYMATRIX)
        if data is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(data), "=i4")[:5].tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, mirror_x=c < 0, mirror_y=b < 0)
        return cls(False, mirror_x=a < 0, mirror_y=d < 0)

    def apply(self, plane: np.ndarray) -> np.ndarray:
        """[H, W, ...] as stored -> a view of it as shown."""
        plane = plane.swapaxes(0, 1) if self.transposed else plane
        return plane[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


@dataclass(frozen=True)
class MediaInfo:
    """What a whole scan of a video file says. Width and height are as shown, after rotation."""

    path: Path
    duration: float  # seconds, from the first picture to the end of the last
    width: int
    height: int
    frame_rate: float  # pictures a second, on average
    has_audio: bool
    audio_rate: int  # samples a second, 0 without sound
    video_codec: str
    audio_codec: str  # "" without sound
    start: float  # the container's time at second 0
    pixel_aspect: Fraction  # width of a shown pixel over its height
    orientation: Orientation


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a local file, and turn whatever fails while it is read into a UserError."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a video file inside it")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        # "file:" keeps a name with a colon a name; the white list keeps a play list from opening other places.
        container = av.open(
            "file:" + os.path.abspath(path), options={"protocol_whitelist": "file"}, metadata_errors="replace"
        )
    except PermissionError as error:
        raise UserError(f"{path}: may not be read; change its permissions") from error
    except (FFmpegError, OSError, ValueError) as error:
        with path.open("rb") as file:
            is_mp4 = file.read(8)[4:] == b"ftyp"
        if is_mp4:
            raise UserError(f"{path}: its index is missing, the file is cut short; copy or record it again") from error
        raise UserError(f"{path}: not a video that can be read; name an mp4, mkv, webm, mov or avi file") from error
    try:
        with container:
            yield container
    except FFmpegError as error:
        raise UserError(f"{path}: broken inside ({error.strerror}); copy it again or re-encode it") from error


def chosen_streams(
    container: av.container.InputContainer, path: Path
) -> tuple[av.video.stream.VideoStream, av.audio.stream.AudioStream | None]:
    """The video stream and the audio stream (or None) that a player would choose."""
    video = container.streams.best("video")
    if video is None or video.disposition & Disposition.attached_pic:
        raise UserError(f"{path}: has no video stream; name a file with pictures and sound")
    if video.codec_context is None or not video.width or not video.height:
        raise UserError(f"{path}: its video codec cannot be read; re-encode it as H.264")
    audio = container.streams.best("audio", related=video)
    return video, audio if audio is not None and audio.codec_context is not None else None


@dataclass
class _Scan:
    """What the packets of a file say, without decoding more than one picture."""

    picture: av.VideoFrame | None = None
    pictures: int = 0  # packets of pictures that are shown
    sounds: int = 0  # packets of sound
    corrupt: bool = False
    last: float | None = None  # container time of the last shown picture; None without time stamps
    ends: dict[int, float] = field(default_factory=dict)  # of each stream, container time

    def add(self, packet: av.Packet, video: int, audio: int) -> None:
        is_video = packet.stream_index == video
        if is_video and self.picture is None:
            self.picture = next(iter(_tolerant(packet)), None)
        if not packet.size:  # ends a stream
            return
        self.corrupt |= packet.is_corrupt
        self.sounds += packet.stream_index == audio
        shown = is_video and not packet.is_discard
        self.pictures += shown
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            return
        time = float(stamp * packet.time_base)
        end = time + float((packet.duration or 0) * packet.time_base)
        self.ends[packet.stream_index] = max(self.ends.get(packet.stream_index, end), end)
        if shown:
            self.last = time if self.last is None else max(self.last, time)


def probe(path: str | Path) -> MediaInfo:
    """Scan a whole file (demuxed, one picture decoded) and say what is in it.

    Raises UserError if the file is missing, a folder, empty, unreadable, without video or pictures, or cut short.
    """
    path = Path(path)
    with opened(path) as container:
        video, audio = chosen_streams(container, path)
        scan = _Scan()
        for packet in container.demux():
            scan.add(packet, video.index, -1 if audio is None else audio.index)
        if scan.picture is None or not scan.pictures:
            raise UserError(f"{path}: not one picture of it can be decoded; re-encode it as H.264")
        _check_whole(container, scan, path)
        nominal = float(video.guessed_rate or video.average_rate or 25)
        start = scan.picture.time
        if start is None or scan.last is None:  # a raw stream: no time stamps at all, only a nominal rate
            start, duration = 0.0, scan.pictures / nominal
        else:  # the last picture lasts at least a moment, even where no duration is written
            duration = max(scan.ends[video.index], scan.last + min(0.5, 1 / nominal)) - start
        orientation = Orientation.of(scan.picture)
        width, height = scan.picture.width, scan.picture.height
        aspect = video.sample_aspect_ratio or Fraction(1)
        if orientation.transposed:
            width, height, aspect = height, width, 1 / aspect
        return MediaInfo(
            path=path,
            duration=duration,
            width=width,
            height=height,
            frame_rate=scan.pictures / duration,
            has_audio=scan.sounds > 0,
            audio_rate=audio.rate if scan.sounds else 0,
            video_codec=video.codec_context.codec.name,
            audio_codec=audio.codec_context.codec.name if scan.sounds else "",
            start=start,
            pixel_aspect=aspect,
            orientation=orientation,
        )


def _check_whole(container: av.container.InputContainer, scan: _Scan, path: Path) -> None:
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


def _tolerant(packet: av.Packet) -> list:
    """Decode a packet; a recording that starts between two key frames gives errors until the first one."""
    try:
        return packet.decode()
    except FFmpegError:
        return []


def decoded(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.frame.Frame]:
    """Every frame of a stream in order; FFmpegError where one cannot be decoded, except before the first."""
    begun = False
    for packet in container.demux(stream):
        for frame in packet.decode() if begun else _tolerant(packet):
            begun = True
            yield frame


def _deinterlaced(frames: Iterator[av.VideoFrame], stream: av.video.stream.VideoStream) -> Iterator[av.VideoFrame]:
    """Pass progressive pictures through; from the first interlaced one on, a filter weaves the fields."""
    graph = None
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            graph = Graph()
            graph.link_nodes(
                graph.add_buffer(template=stream),
                graph.add("bwdif", "mode=send_frame:deint=interlaced"),
                graph.add("buffersink"),
            ).configure()
        if graph is None:
            yield frame
        else:
            graph.vpush(frame)
            yield from _pulled(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph)


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


def video_frames(info: MediaInfo) -> Iterator[tuple[float, av.VideoFrame]]:
    """Every picture with the second it is shown at, never decreasing; as stored: not turned, any pixel format."""
    with opened(info.path) as container:
        stream, _ = chosen_streams(container, info.path)
        stream.thread_type = "AUTO"
        time = None
        for frame in _deinterlaced(decoded(container, stream), stream):
            if frame.time is not None:
                shown = frame.time - info.start
            else:
                shown = 0.0 if time is None else time + 1 / info.frame_rate
            time = max(shown, time or 0.0)
            yield time, frame
        if time is None:
            raise UserError(f"{info.path}: not one picture of it can be decoded; re-encode it as H.264")


def read_frames(source: str | Path | MediaInfo, times: Iterable[float]) -> Iterator[tuple[float, np.ndarray]]:
    """For each asked time, in seconds and never decreasing, the picture on display then: RGB uint8 [H, W, 3].

    Times before the first picture give the first, times after the last give the last. Raises UserError as probe
    does, or if the file breaks in the middle; ValueError if the times go back.
    """
    info = source if isinstance(source, MediaInfo) else probe(source)
    reformatter = VideoReformatter()
    width, height = (info.height, info.width) if info.orientation.transposed else (info.width, info.height)

    def rgb(frame: av.VideoFrame) -> np.ndarray:
        stored = reformatter.reformat(frame, width, height, "rgb24").to_ndarray()
        return np.ascontiguousarray(info.orientation.apply(stored))

    frames, wanted, before = video_frames(info), iter(times), float("-inf")
    shown = upcoming = next(frames)
    for time in wanted:
        if time < before:
            raise ValueError(f"times must not go back: {time} after {before}")
        before = time
        while upcoming is not None and upcoming[0] <= time + 1e-6:
            shown, upcoming = upcoming, next(frames, None)
        yield time, rgb(shown[1])
