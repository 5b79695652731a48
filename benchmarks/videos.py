"""Benchmark videos of any length: 720p, 25 frames per second, H.264 and AAC.

Ten seconds are encoded once. Longer videos repeat their packets, so that ten minutes are written in seconds and cost
the same per second to decode. scene: a composed scene of the embedded benchmark in which one object always sounds, so
that every frame has a mask. pattern: a grainy image under a moving camera with an intermittent tone, which belongs to
no class, so masks are empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from icf_avs.synthetic.catalog import load_catalog
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene_sampler import BALANCED, sample_scene
from icf_avs.synthetic.sounds import SoundBank, render_tracks, resample
from icf_avs.types import RATE as SCENE_SOUND_RATE

WIDTH, HEIGHT, RATE = 1280, 720, 25
SOUND_RATE = 48_000
LOOP = 10  # seconds that are repeated
SCENE = 35  # a test scene: a bleating sheep, known to both checkpoints, beside a vulture


@dataclass(frozen=True)
class Loop:
    """The repeated part: video without sound, and samples float32 [N] at SOUND_RATE, as long as the video."""

    path: Path
    samples: np.ndarray


def pattern(count: int, width: int, height: int) -> Iterator[np.ndarray]:
    """Yield RGB uint8 [height, width, 3], as hard to encode and decode as filmed video, about 3 Mbit/s at 720p."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (height // 20 + 8, width // 20 + 40, 3)).repeat(20, 0).repeat(20, 1)
    scene = (coarse + rng.normal(0, 6, coarse.shape)).clip(0, 255).astype(np.uint8)
    side = height // 4
    for number in range(count):
        turn = 2 * np.pi * number / count  # returns to its start, so that the loop has no cut
        x, y = round(150 * (1 - np.cos(turn))), round(40 * (1 - np.cos(turn)))
        picture = scene[y : y + height, x : x + width].copy()
        left, top = round((width - side) * (1 + np.sin(turn)) / 2), height // 2 - side // 2
        picture[top : top + side, left : left + side] = 230, 40 + number % 50, 20
        yield picture


def pattern_loop(path: Path, width: int = WIDTH, height: int = HEIGHT, seconds: int = LOOP) -> Loop:
    """Encode the pattern."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(seconds * SOUND_RATE) / SOUND_RATE)
    tone[np.arange(len(tone)) // SOUND_RATE % 2 == 1] = 0
    return _encoded(path, pattern(seconds * RATE, width, height), width, height, tone)


def scene_loop(path: Path, width: int = WIDTH, height: int = HEIGHT, seconds: int = LOOP) -> Loop:
    """Encode a composed scene with camera noise, about 3 Mbit/s at 720p."""
    catalog = load_catalog()
    style = replace(BALANCED, num_sources=(1.0,), continuous=1.0)
    scene = sample_scene(catalog, "test", SCENE, style=style, seconds=seconds)
    sound, _ = render_tracks(scene, SoundBank(catalog))
    grain = np.random.default_rng(0).normal(0, 7, (4, height, width, 3)).round().astype(np.int16)

    def frames() -> Iterator[np.ndarray]:
        for number in range(seconds * RATE):
            clean, _ = render_frame(scene, number / RATE, (width, height))
            yield (clean + grain[number % len(grain)]).clip(0, 255).astype(np.uint8)

    return _encoded(path, frames(), width, height, resample(sound, SCENE_SOUND_RATE / SOUND_RATE))


def _encoded(path: Path, frames: Iterator[np.ndarray], width: int, height: int, samples: np.ndarray) -> Loop:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(video.encode(None))
    return Loop(path, samples.astype(np.float32))


def write_video(loop: Loop, path: Path, seconds: int) -> Path:
    """Write a video of at least `seconds`, in whole loops."""
    length = len(loop.samples) // SOUND_RATE
    turns = -(-seconds // length)
    with av.open(str(path), "w") as container:
        video, audio, written = None, None, 0
        for turn in range(turns):
            with av.open(str(loop.path)) as source:
                stream = source.streams.video[0]
                if video is None:
                    video = container.add_stream_from_template(stream)
                    audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
                for packet in source.demux(stream):
                    if packet.size:
                        shift = round(turn * length / packet.time_base)
                        packet.stream, packet.pts, packet.dts = video, packet.pts + shift, packet.dts + shift
                        container.mux(packet)
            for part in np.split(loop.samples, length):
                frame = av.AudioFrame.from_ndarray(part[None], "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, written, Fraction(1, SOUND_RATE)
                container.mux(audio.encode(frame))
                written += len(part)
        container.mux(audio.encode(None))
    return path
