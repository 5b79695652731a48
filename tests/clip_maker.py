"""Make small test videos: every frame encodes its number, the audio is given sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, RATE = 160, 120, 48_000
_LAYOUTS = {1: "mono", 2: "stereo", 4: "ambisonic 1", 6: "5.1", 8: "7.1", 9: "9 channels"}
_BITS, _BLOCK = 8, 20  # frame number: a row of black and white blocks at the top


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame, RGB uint8 [height, width, 3]: number in bits at the top, a moving red square, a blue lower left."""
    image = np.full((height, width, 3), 90, np.uint8)
    for bit in range(_BITS):
        image[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 255 * (number >> bit & 1)
    x = 20 + number % 50
    image[50:80, x : x + 30] = 230, 20, 20
    image[-20:, :20] = 20, 20, 230
    return image


def number_in(image: np.ndarray) -> int:
    """Read the number that picture() wrote."""
    centres = image[_BLOCK // 2, _BLOCK // 2 : _BITS * _BLOCK : _BLOCK].mean(axis=-1)
    return sum(1 << bit for bit in range(_BITS) if centres[bit] > 128)


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """440 Hz tone: float32 [channels, samples]."""
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def click(seconds: float, at: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Silence with 5 ms of a loud tone from `at` seconds on: float32 [channels, samples]."""
    wave = np.zeros((channels, round(seconds * rate)), np.float32)
    first, length = round(at * rate), round(0.005 * rate)
    wave[:, first : first + length] = 0.9 * np.sin(2 * np.pi * 1500 * np.arange(length) / rate)
    return wave


def make_clip(
    path: Path, *, seconds: float = 2.0, fps: int = 25, size: tuple[int, int] = (WIDTH, HEIGHT),
    times: Sequence[float] | None = None,
    sound: np.ndarray | None = None, sound_rate: int = RATE, sound_at: float = 0.0, hole: tuple[float, float] = (0, 0),
    codec: str = "libx264", sound_codec: str = "aac", pix_fmt: str = "yuv420p", rotation: int = 0, flip: bool = False,
    options: dict[str, str] | None = None, movie_options: dict[str, str] | None = None, flash: float | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Path:  # fmt: skip
    """Write a video of numbered frames (at `times`, or at `fps`) and, if given, `sound` (float32 [channels, n]).

    hole: interval (seconds) without audio packets. flash: frames in the 0.1 s from this time on are white.
    """
    times = [n / fps for n in range(round(seconds * fps))] if times is None else times
    clock = Fraction(1, 1000) if codec != "gif" else Fraction(1, 100)
    with av.open(str(path), "w", options=movie_options or {}) as container:
        video = container.add_stream(codec, rate=fps, options=options or {})
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        video.codec_context.time_base = Fraction(1, fps) if path.suffix == ".avi" or codec == "mpeg2video" else clock
        video.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation or flip:
            video.set_display_rotation(rotation, hflip=flip)
        audio, layout = None, None
        if sound is not None:
            layout = _LAYOUTS[len(sound)]
            audio = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
        begin = 0
        for number, time in enumerate(times):
            white = flash is not None and flash - 1e-6 <= time < flash + 0.1
            image = np.full((*size[::-1], 3), 255, np.uint8) if white else picture(number, *size)
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)
            frame.time_base = video.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            container.mux(video.encode(frame))
            if audio is not None:  # one block per frame, so that the file is interleaved as usual
                until = round(times[number + 1] * sound_rate) if number + 1 < len(times) else sound.shape[1]
                samples = sound[:, begin:until].T.reshape(1, -1)  # interleaved
                if samples.size and not hole[0] <= time < hole[1]:
                    block = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "flt", layout)
                    block.sample_rate, block.time_base = sound_rate, Fraction(1, sound_rate)
                    block.pts = begin + round(sound_at * sound_rate)
                    container.mux(audio.encode(block))
                begin = until
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path


def overwrite(path: Path, kind: str, numbers: Sequence[int], byte: int = 0) -> Path:
    """Overwrite packets of one stream ("video" or "audio") with a constant byte."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.stream.type == kind and packet.size]
    for number in numbers:
        place = data.find(packets[number])
        data[place : place + len(packets[number])] = bytes([byte]) * len(packets[number])
    path.write_bytes(data)
    return path
