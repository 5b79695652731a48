"""Small clips with known content: each second has a distinct colour and tone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

COLOURS = np.array([(r, g, b) for r in (30, 225) for g in (30, 225) for b in (30, 225)])
TONES = (330, 470, 640, 900, 1250, 1730, 2400, 3300)  # Hz
SIZE, RATE = (64, 48), 48_000
# container: video codec, pixel format, audio codec, frames per second
FORMS = {
    "mp4": ("libx264", "yuv420p", "aac", 12),
    "mov": ("mjpeg", "yuvj420p", "pcm_s16le", 10),
    "mkv": ("libx264", "yuv420p", "libmp3lame", 15),
    "webm": ("libvpx", "yuv420p", "libopus", 12),
    "avi": ("mpeg4", "yuv420p", "libmp3lame", 25),
    "ts": ("libx264", "yuv420p", "aac", 25),
    "m2ts": ("libx264", "yuv420p", "ac3", 25),
    "mpg": ("mpeg2video", "yuv420p", "mp2", 25),
    "vob": ("mpeg2video", "yuv420p", "ac3", 25),
    "wmv": ("wmv2", "yuv420p", "libmp3lame", 25),
    "wtv": ("mpeg2video", "yuv420p", "mp2", 25),
    "nut": ("ffv1", "yuv420p", "pcm_s16le", 10),
    "ogv": ("libvpx", "yuv420p", "libopus", 12),
    "mxf": ("mpeg2video", "yuv420p", "pcm_s16le", 25),
    "flv": ("flv1", "yuv420p", "aac", 15),
}
_EDGE = 0.1  # tolerance in seconds around a change: half a frame, and rounded timestamps
Second = tuple[int | None, int | None]  # colour and tone; None: not checked, or no sound


@dataclass(frozen=True)
class Known:
    """Content of a file, second by second."""

    seconds: tuple[Second, ...]
    damaged: frozenset[int] = frozenset()  # seconds whose frames may be missing or from the second before
    missing: float = 0.0  # seconds at the end that may be lost
    repaired: bool = False  # whether the result must report a repair

    @property
    def longest(self) -> float:
        return len(self.seconds)

    @property
    def shortest(self) -> float:
        return len(self.seconds) - self.missing

    def colours_at(self, time: float) -> set[int]:
        """Return the colours allowed at a time; empty if any colour is allowed."""
        near = {min(max(int(time + by), 0), len(self.seconds) - 1) for by in (-_EDGE, 0, _EDGE)}
        if near & self.damaged:
            return set()
        colours = {self.seconds[second][0] for second in near}
        return set() if None in colours else colours

    def tone(self, middle: float, length: float) -> tuple[int | None, float]:
        """Return the tone of the second that fills most of a window, and the share that it fills."""
        begin, end = middle - length / 2, middle + length / 2
        shares = [min(end, second + 1) - max(begin, second) for second in range(len(self.seconds))]
        most = int(np.argmax(shares))
        return self.seconds[most][1], shares[most] / length

    def as_overlay(self) -> Known:
        """Return the expected content of the overlay video, which is intact and reports no repair."""
        return replace(self, repaired=False)


def make(
    path: Path, seconds: Iterable[Second], *, video_seconds: int | None = None, sound_at: float = 0.0,
    options: dict[str, str] | None = None, movie: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a clip. `video_seconds`: seconds after which the video stream ends; `sound_at`: start of the audio."""
    seconds = list(seconds)
    codec, pixels, sound_codec, rate = FORMS[path.suffix[1:]]
    with av.open(str(path), "w", options=movie or {}) as container:
        options = {"g": str(rate)} | (options or {}) if codec != "mjpeg" else {}
        video = container.add_stream(codec, rate=rate, options=options)
        video.width, video.height, video.pix_fmt = *SIZE, pixels
        if codec == "libx264":
            video.options = options | {"preset": "ultrafast", "sc_threshold": "0"}
        audio = container.add_stream(sound_codec, rate=RATE, layout="mono")
        samples, time = np.arange(RATE) / RATE, 0
        for number, (colour, tone) in enumerate(seconds):
            for part in range(rate if number < (len(seconds) if video_seconds is None else video_seconds) else 0):
                image = np.full((*SIZE[::-1], 3), COLOURS[colour], np.uint8)
                image[4:12, 4 + part : 12 + part] = 128  # a moving square
                frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = number * rate + part, Fraction(1, rate)
                container.mux(video.encode(frame))
            wave = np.zeros(RATE) if tone is None else 0.3 * np.sin(2 * np.pi * TONES[tone] * samples)
            for piece in np.split(wave.astype(np.float32), 20):
                block = av.AudioFrame.from_ndarray(piece[None], "flt", "mono")
                block.sample_rate, block.time_base, block.pts = RATE, Fraction(1, RATE), time + round(sound_at * RATE)
                container.mux(audio.encode(block))
                time += len(piece)
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def content(rng: np.random.Generator, count: int) -> list[Second]:
    """Return `count` seconds, each different from the one before."""
    colours, tones = (rng.permutation(8) for _ in range(2))
    return [(int(colours[number % 8]), int(tones[number % 8])) for number in range(count)]
