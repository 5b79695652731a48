"""What is damaged in a video that is read all the same, as players do. It is reported with every result."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    cancelled: float = 0.0  # seconds of sound whose channels cancel each other in their mean (downmix.py)
    size: int = 0  # bytes of the file when it was scanned
    grown: bool = False

    def skip(self, kind: str, number: int) -> None:
        """A packet of a stream ("video" or "audio") cannot be decoded. Raises TooDamaged if too many cannot."""
        lost, count, what = (
            (self.damaged_video, self.num_video_packets, "video")
            if kind == "video"
            else (self.damaged_audio, self.num_audio_packets, "sound")
        )
        lost.add(number)
        if len(lost) > MOST_DAMAGED * count:
            raise TooDamaged(what)

    def restore(self, seconds: float) -> None:
        """In so many seconds one channel is used in place of the mean of all."""
        self.cancelled += seconds

    def check_growth(self, path: Path) -> None:
        """Note whether the file has grown since it was scanned."""
        with suppress(OSError):  # gone: then it has not grown
            self.grown = path.stat().st_size > self.size

    def document(self) -> dict[str, Any]:
        """For segmentation.json: what was repaired, only what there is."""
        values = {
            "damaged_pictures": len(self.damaged_video),
            "damaged_sound": len(self.damaged_audio),
            "damaged_places": self.places,
            "incomplete_packets": self.incomplete,
            "joined_files": self.parts if self.parts > 1 else 0,
            "unread_bytes": self.unread,
            "missing_beginning": round(self.missing, 3),
            "clock_jumps": [round(second, 3) for second in self.jumps],
            "cancelled_channels": round(self.cancelled, 1),
            "grown": self.grown,
        }
        return {name: value for name, value in values.items() if value}

    def lines(self) -> list[str]:
        """For people."""
        found = []
        if lost := len(self.damaged_video):
            found.append(f"{lost} of {self.num_video_packets} packets of video are damaged: the last good one stays")
        if lost := len(self.damaged_audio):
            found.append(f"{lost} of {self.num_audio_packets} packets of sound are damaged: silence in their place")
        if self.places:
            found.append(f"the file is damaged at {self.places} places, which are skipped")
        if self.incomplete:
            found.append(f"{self.incomplete} packets are incomplete, as at the end of a recording that breaks off")
        if self.parts > 1:
            found.append(f"it consists of {self.parts} files one behind the other: all of them are read")
        if self.unread:
            found.append(f"{self.unread:,} bytes at its end hold neither video nor sound that can be read")
        if self.missing:
            found.append(f"no frame of its first {self.missing:.2f} s can be decoded: the first good one is shown")
        if self.jumps:
            seconds = ", ".join(f"{second:.2f}" for second in self.jumps[:5]) + (", ..." if self.jumps[5:] else "")
            found.append(f"its time stamps begin anew or jump at {seconds} s: put on one clock")
        if self.cancelled:
            found.append(f"channels of its sound cancel each other in some {self.cancelled:.1f} s: one of them is used")
        if self.grown:
            found.append("the file has grown meanwhile: what came after the first scan is left out")
        return found
