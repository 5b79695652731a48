"""Videos to time programs on: 720p, 25 pictures a second, H.264 and AAC, of any length.

Ten seconds of a camera that moves over a grainy picture, with a thing that moves by itself, are encoded once; longer
videos repeat their packets, so that ten minutes are written in seconds and cost the same per second to decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE = 1280, 720, 25
SOUND_RATE = 48_000
LOOP = 10  # seconds that repeat


def pictures(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    """RGB uint8 [height, width, 3]: as hard to encode and decode as filmed video, about 3 Mbit a second at 720p."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (height // 20 + 8, width // 20 + 40, 3)).repeat(20, 0).repeat(20, 1)
    scene = (coarse + rng.normal(0, 6, coarse.shape)).clip(0, 255).astype(np.uint8)
    side = height // 4
    for number in range(count):
        turn = 2 * np.pi * number / count  # comes back to where it began, so that the loop has no cut
        x, y = round(150 * (1 - np.cos(turn))), round(40 * (1 - np.cos(turn)))
        picture = scene[y : y + height, x : x + width].copy()
        left, top = round((width - side) * (1 + np.sin(turn)) / 2), height // 2 - side // 2
        picture[top : top + side, left : left + side] = 230, 40 + number % 50, 20
        yield picture


def write_loop(path: Path, width: int = WIDTH, height: int = HEIGHT, seconds: int = LOOP) -> Path:
    """Encode the pictures that `write_video` repeats."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for picture in pictures(seconds * RATE, width, height):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode(None))
    return path


def write_video(loop: Path, path: Path, seconds: int) -> Path:
    """Write a video of at least `seconds`, whole loops, whose tone comes and goes every second."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * SOUND_RATE) / SOUND_RATE)
    tone[SOUND_RATE:] = 0
    with av.open(str(loop)) as source:
        length = Fraction(source.streams.video[0].frames, RATE)
        turns = -(-seconds // length)
    with av.open(str(path), "w") as container:
        video, audio = None, None
        written = 0  # samples
        for turn in range(turns):
            with av.open(str(loop)) as source:
                stream = source.streams.video[0]
                if video is None:
                    video = container.add_stream_from_template(stream)
                    audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
                for packet in source.demux(stream):
                    if packet.size:
                        shift = round(turn * length / packet.time_base)
                        packet.stream, packet.pts, packet.dts = video, packet.pts + shift, packet.dts + shift
                        container.mux(packet)
            while written < (turn + 1) * length * SOUND_RATE:
                left = int((turn + 1) * length * SOUND_RATE) - written
                part = tone[written % len(tone) :][:left]
                frame = av.AudioFrame.from_ndarray(part[None].astype(np.float32), "fltp", "mono")
                frame.sample_rate, frame.pts = SOUND_RATE, written
                container.mux(audio.encode(frame))
                written += len(part)
        container.mux(audio.encode(None))
    return path
