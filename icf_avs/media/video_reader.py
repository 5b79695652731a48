"""Read the frames of a video file on a continuous clock, in constant memory (for its audio, see audio_windows.py).

Second 0 is the presentation time of the first frame. Decoding is forward only and keeps one or two frames in memory.
Any problem with the file raises a UserError of one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from icf_avs.errors import UserError
from icf_avs.media.container import WHOLE, Parts, check_file, joined_parts, open_parts
from icf_avs.media.frame import DecodedFrame
from icf_avs.media.frame_filters import Crop, container_crop, filter_frames
from icf_avs.media.packets import Scan, check_size, check_whole, decode_frames, unread_bytes
from icf_avs.media.repairs import Clock, Repaired, TooDamaged

_MAX_HOURS = 24  # hours; longest video
_MAX_AUDIO_TAIL = 0.25  # seconds of audio after the last frame that are ignored: rounding by encoders


@dataclass(frozen=True)
class Orientation:
    """Orientation of the displayed frame relative to the stored one: transposed first, then mirrored."""

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
        """Return a view of a stored plane [H, W, ...] in display orientation."""
        plane = plane.swapaxes(0, 1) if self.transposed else plane
        return plane[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


@dataclass(frozen=True)
class MediaInfo:
    """Facts from a full scan of a video file. Width and height are those displayed, after rotation."""

    path: Path
    duration: float  # seconds, from the first frame to the end of the last
    width: int
    height: int
    frame_rate: float  # frames per second, on average
    has_audio: bool
    audio_track: int  # number of the selected audio track, from 1; 0 without audio
    audio_rate: int  # samples per second, 0 without audio
    audio_channels: int  # according to the header, 0 without audio
    audio_unbroken: bool  # no gaps, no overlaps
    audio_codec: str  # "" without audio
    start: float  # container time of second 0, in seconds
    pixel_aspect: Fraction  # width over height of a displayed pixel
    orientation: Orientation
    crop: Crop  # of the stored frames
    parts: Parts = WHOLE  # byte ranges of concatenated files
    clock: Clock = field(default_factory=Clock)
    repaired: Repaired = field(default_factory=Repaired, compare=False)  # updated while the video is read

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height of frames before rotation."""
        return (self.height, self.width) if self.orientation.transposed else (self.width, self.height)


@contextmanager
def open_media(path: Path, parts: Parts = WHOLE) -> Iterator[av.container.InputContainer]:
    """Open a local file, or parts of it as one container. Errors while it is read become a UserError."""
    _check_readable(path)
    try:
        container = open_parts(path, parts)
    except (FFmpegError, OSError, ValueError) as error:
        with path.open("rb") as file:
            is_mp4 = file.read(8)[4:] == b"ftyp"
        if is_mp4:
            raise UserError(f"{path}: its index is missing, the file is cut short; copy or record it again") from error
        raise UserError(f"{path}: not a video that can be read; name an mp4, mkv, webm, mov or avi file") from error
    try:
        with container:
            yield container
    except TooDamaged as error:
        raise UserError(f"{path}: more than half of its {error} is damaged; copy or download it again") from error
    except FFmpegError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy it again or re-encode it") from error


def _check_readable(path: Path) -> None:
    check_file(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: may not be read ({error.strerror}); change its permissions") from error


def select_streams(
    container: av.container.InputContainer, path: Path, audio_track: int | None = None
) -> tuple[av.video.stream.VideoStream, av.audio.stream.AudioStream | None]:
    """Return the video stream that a player would choose and an audio stream (or None).

    The audio stream is track number `audio_track` (from 1); by default the first one marked as default in the file,
    else the one that a player would choose. Raises UserError without video or for a number that does not exist.
    """
    video = container.streams.best("video")
    if video is None or video.disposition & Disposition.attached_pic:
        raise UserError(f"{path}: has no video stream; name a file with video and sound")
    if video.codec_context is None or not video.width or not video.height:
        raise UserError(f"{path}: its video codec cannot be read; re-encode it as H.264")
    check_size(video.width, video.height, path)
    tracks = container.streams.audio
    playable = [track for track in tracks if track.codec_context is not None]
    if audio_track is None or not tracks:
        marked = (track for track in playable if track.disposition & Disposition.default)
        audio = next(marked, None) or container.streams.best("audio", related=video)
        return video, audio if audio in playable else None
    if 1 <= audio_track <= len(tracks) and tracks[audio_track - 1] in playable:
        return video, tracks[audio_track - 1]
    problem = "cannot be decoded" if 1 <= audio_track <= len(tracks) else "is not there"
    available = ", ".join(f"{n} ({_describe_track(track)})" for n, track in enumerate(tracks, 1) if track in playable)
    raise UserError(f"{path}: audio track {audio_track} {problem}; choose from {available or 'another file'}")


def _describe_track(track: av.audio.stream.AudioStream) -> str:
    context = track.codec_context
    words = context.codec.name, context.layout.name, track.metadata.get("language", ""), track.metadata.get("title", "")
    return ", ".join(word[:40] for word in words if word)


def probe(path: str | Path, audio_track: int | None = None) -> MediaInfo:
    """Scan a whole file (demux it, decode one frame) and return its MediaInfo.

    audio_track (from 1): see select_streams. Raises UserError if the file is missing, a folder, empty, unreadable,
    without video or frames, without that track, cut short, or its frames or duration exceed the limits.
    """
    path = Path(path)
    _check_readable(path)
    size = path.stat().st_size
    parts, unused_offsets = joined_parts(path, size)
    unread = (
        sum(_unread_bytes_of_part(path, part, unused_offsets, audio_track) for part in parts) if len(parts) > 1 else 0
    )
    with open_media(path, parts) as container:
        video, audio = select_streams(container, path, audio_track)
        scan = Scan(container, video, audio, path)
        if len(parts) == 1:
            check_whole(container, scan, path)
            unread = unread_bytes(container, scan, size, unused_offsets)
        clock, ends = scan.runs.clock(video.index)
        start = scan.start
        if start is None:  # a raw stream: no time stamps, only a nominal rate
            start, frames_end = 0.0, scan.num_frames * scan.frame_length
        else:
            frames_end = max(ends[video.index], start + 0.001)
        end = frames_end
        if not scan.num_audio_packets:
            audio = None
        elif ends.get(audio.index, frames_end) > frames_end + (_MAX_AUDIO_TAIL if scan.num_frames > 1 else 0):
            end = ends[audio.index]  # the last frame is shown until the audio ends
        if end - start > _MAX_HOURS * 3600:
            raise UserError(
                f"{path}: lasts {(end - start) / 3600:.0f} hours by its time stamps; cut it into parts of at most "
                f"{_MAX_HOURS} hours, or re-encode it"
            )
        orientation, crop = Orientation.of(scan.first_frame), container_crop(video)
        width, height, aspect = (
            scan.first_frame.width,
            scan.first_frame.height,
            video.sample_aspect_ratio or Fraction(1),
        )
        if crop.filter_of(width, height):
            width, height = width - crop.left - crop.right, height - crop.top - crop.bottom
        if orientation.transposed:
            width, height, aspect = height, width, 1 / aspect
        return MediaInfo(
            path=path, duration=end - start, width=width, height=height,
            frame_rate=scan.num_frames / ((frames_end if scan.num_frames > 1 else end) - start),
            has_audio=audio is not None,
            audio_track=container.streams.audio.index(audio) + 1 if audio else 0,
            audio_rate=audio.rate if audio else 0,
            audio_channels=audio.channels if audio else 0,
            audio_unbroken=scan.unbroken,
            audio_codec=audio.codec_context.codec.name if audio else "",
            start=start, pixel_aspect=aspect, orientation=orientation, crop=crop, parts=parts, clock=clock,
            repaired=Repaired(
                num_video_packets=clock.counts[video.index], num_audio_packets=scan.num_audio_packets,
                places=len(scan.damaged), parts=len(parts), unread=unread, incomplete=scan.incomplete,
                missing=scan.missing, jumps=tuple(jump - start for jump in clock.jumps), size=size,
            ),
        )  # fmt: skip


def _unread_bytes_of_part(
    path: Path, part: tuple[int, int], unused_offsets: tuple[int, ...], audio_track: int | None
) -> int:
    """Number of unread bytes at the end of one part of a file. Raises UserError if the part is cut short."""
    begin, end = part
    with open_media(path, (part,)) as container:
        scan = Scan(container, *select_streams(container, path, audio_track), path)
        check_whole(container, scan, path, begin)
        return unread_bytes(
            container, scan, end - begin, [other - begin for other in unused_offsets if begin < other < end]
        )


def _decoded_frames(info: MediaInfo) -> Iterator[av.VideoFrame | None]:
    """Decode every frame; yield None in place of an undecodable packet. Lost frames are decoded again by one thread."""
    rest: tuple | None = ()
    for threads in ("AUTO", "NONE"):
        if rest is not None:
            with open_media(info.path, info.parts) as container:
                stream, _ = select_streams(container, info.path)
                stream.thread_type = threads
                rest = yield from decode_frames(container, stream, info.clock, info.repaired, *rest)


def video_frames(info: MediaInfo) -> Iterator[tuple[float, DecodedFrame]]:
    """Yield every frame with its presentation time in seconds, never decreasing. Frames are as stored: not rotated."""
    time = None
    for frame in filter_frames(filter(None, _decoded_frames(info)), info.crop):
        if frame.time is not None:
            time_shown = frame.time - info.start
        else:
            time_shown = 0.0 if time is None else time + 1 / info.frame_rate
        time = max(time_shown, time or 0.0)
        yield time, DecodedFrame.of(frame)
    if time is None:
        raise UserError(f"{info.path}: not one frame of it can be decoded; re-encode it as H.264")


def read_frames(
    source: str | Path | MediaInfo,
    times: Iterable[float],
    decoded_frames: Iterator[tuple[float, DecodedFrame]] | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the frame displayed at each time, RGB uint8 [H, W, 3]. times: seconds, never decreasing.

    Times before the first frame give the first, times after the last give the last. decoded_frames: output of
    `video_frames`; decoded here by default. Raises UserError as probe does, or if the file breaks in the middle;
    ValueError if the times decrease.
    """
    info = source if isinstance(source, MediaInfo) else probe(source)
    reformatter = VideoReformatter()
    frames = video_frames(info) if decoded_frames is None else decoded_frames
    wanted, previous_time = iter(times), float("-inf")
    current = upcoming = next(frames)
    for time in wanted:
        if time < previous_time:
            raise ValueError(f"times must not go back: {time} after {previous_time}")
        previous_time = time
        while upcoming is not None and upcoming[0] <= time + 1e-6:
            current, upcoming = upcoming, next(frames, None)
        yield time, to_rgb(info, current[1], reformatter)


def to_rgb(info: MediaInfo, frame: DecodedFrame, reformatter: VideoReformatter) -> np.ndarray:
    """Convert a frame of `video_frames` to RGB uint8 [H, W, 3], rotated. Raises UserError for unknown pixel formats."""
    try:
        stored = frame.converted(reformatter, *info.stored_size, "rgb24").to_ndarray()
    except (FFmpegError, ValueError) as error:
        name = frame.frame.format.name
        raise UserError(f"{info.path}: its {name} frames cannot be shown; re-encode it") from error
    return np.ascontiguousarray(info.orientation.apply(stored))
