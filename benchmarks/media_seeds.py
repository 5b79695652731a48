"""Small media files of many kinds, as seeds for the fuzzer."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# name, video codec, pixel format, audio codec, container options
KINDS = (
    ("a.mp4", "libx264", "yuv420p", "aac", {}),
    ("first.mp4", "libx264", "yuv420p", "aac", {"movflags": "faststart"}),
    ("fragments.mp4", "libx264", "yuv420p", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    ("a.mov", "mjpeg", "yuvj420p", "pcm_s16le", {}),
    ("a.mkv", "libx264", "yuv420p10le", "flac", {}),
    ("lossless.mkv", "ffv1", "yuv420p", "mp3", {}),
    ("a.webm", "libvpx", "yuv420p", "libopus", {}),
    ("a.avi", "mpeg4", "yuv420p", "pcm_u8", {}),
    ("a.ts", "mpeg2video", "yuv420p", "mp2", {}),
    ("a.flv", "flv1", "yuv420p", "aac", {}),
    ("a.gif", "gif", "rgb8", None, {}),
    ("a.nut", "ffv1", "rgb48le", "pcm_f32le", {}),
)
_SECONDS, _FPS, _RATE, _SIZE = 2, 10, 48_000, (64, 48)


def write_seeds(folder: Path) -> list[Path]:
    """Write one file of each kind: two seconds of a moving bright square with a tone; 5 to 100 kB."""
    return [_write(folder / name, *kind) for name, *kind in KINDS]


def _write(path: Path, codec: str, pixels: str, sound_codec: str | None, options: dict[str, str]) -> Path:
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(_RATE // _FPS) / _RATE)).astype(np.float32)
    with av.open(str(path), "w", options=options) as container:
        rate = 25 if codec == "mpeg2video" else _FPS  # mpeg2video supports only some frame rates
        video = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = *_SIZE, pixels
        audio = container.add_stream(sound_codec, rate=_RATE, layout="mono") if sound_codec else None
        for number in range(_SECONDS * rate):
            image = np.full((*_SIZE[::-1], 3), 60, np.uint8)
            image[10:30, number % 40 : number % 40 + 20] = 250
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(video.encode(frame))
            if audio is not None and number < _SECONDS * _FPS:
                block = av.AudioFrame.from_ndarray(tone[None], "flt", "mono")
                block.sample_rate, block.time_base, block.pts = _RATE, Fraction(1, _RATE), number * len(tone)
                container.mux(audio.encode(block))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path
