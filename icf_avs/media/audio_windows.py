"""Audio of a video on the clock of its frames, streamed in constant memory, and the audio windows of masks.

Second 0 is the presentation time of the first frame (video_reader.py); a late start of the audio is preserved.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from icf_avs.errors import UserError
from icf_avs.media.audio_file import resample, to_mono
from icf_avs.media.packets import JUMP, decode_frames
from icf_avs.media.video_reader import MediaInfo, open_media, probe, select_streams
from icf_avs.types import RATE, ClipSpec

# Full scale is 1. Floating-point audio may exceed it; samples above this limit are treated as damaged.
_MAX_AMPLITUDE = 8.0

AudioSource = Callable[[int, str | None], Iterator[np.ndarray]]  # (rate, layout) -> blocks, as audio_blocks


def audio_blocks(info: MediaInfo, rate: int, layout: str | None = None) -> Iterator[np.ndarray]:
    """Yield the audio from second 0 on without gaps: float32 [channels, n] blocks at `rate`.

    A late start and gaps are filled with zeros; audio before the first frame is dropped. layout: mix to "mono" or
    "stereo" by the usual weights; None keeps the channels. NaN samples become zeros. Raises UserError without audio.
    """
    if not info.has_audio:
        raise UserError(f"{info.path}: has no sound, which is needed to tell what sounds; name a video with sound")
    written = 0  # samples yielded so far
    with open_media(info.path, info.parts) as container:
        _, stream = select_streams(container, info.path, info.audio_track)
        frames = decode_frames(container, stream, info.clock, info.repaired)
        for begin, blocks in _runs(frames, info.start, rate, layout):
            position = round(begin * rate)
            for block in blocks:
                while position > written:
                    gap = min(position - written, rate)
                    yield np.zeros((len(block), gap), np.float32)
                    written += gap
                overlap = min(written - position, block.shape[1])
                position += block.shape[1]
                if overlap < block.shape[1]:
                    yield block[:, overlap:]
                    written += block.shape[1] - overlap


def _runs(
    frames: Iterator[av.AudioFrame | None], start: float, rate: int, layout: str | None
) -> Iterator[tuple[float, Iterator[np.ndarray]]]:
    """Split decoded audio where its time stamps jump, its format changes or a packet is lost (None); yield the start
    second and the samples of each run.
    """
    upcoming, unbroken, end = None, True, 0.0  # next frame, whether none was lost before it, its expected time

    def advance() -> None:
        nonlocal upcoming, unbroken
        unbroken = True
        for upcoming in frames:
            if upcoming is not None:
                return
            unbroken = False
        upcoming = None

    def audio_format(frame: av.AudioFrame) -> tuple:
        return frame.format.name, frame.layout.name, frame.sample_rate

    def begins(frame: av.AudioFrame) -> float:
        return end if frame.time is None else frame.time - start

    def run(first: av.AudioFrame, layout: str | None) -> Iterator[np.ndarray]:
        nonlocal unbroken, end
        unbroken, resampler = True, av.AudioResampler("flt", layout, rate)
        while (
            unbroken
            and upcoming
            and audio_format(upcoming) == audio_format(first)
            and abs(begins(upcoming) - end) <= JUMP
        ):
            end += upcoming.samples / upcoming.sample_rate
            yield from map(_samples, resampler.resample(upcoming))
            advance()
        yield from map(_samples, resampler.resample(None))

    advance()
    while upcoming is not None:
        end, source = begins(upcoming), upcoming.layout.name
        if not source.startswith("ambisonic") and not source.endswith("channels"):
            yield end, run(upcoming, layout)
        else:  # no speaker positions: equal weights; of ambisonics, the omnidirectional channel
            blocks = (block[:1] if source.startswith("ambisonic") else block for block in run(upcoming, None))
            yield end, blocks if layout is None else spread(to_mono(blocks, rate), layout)


def spread(blocks: Iterator[np.ndarray], layout: str) -> Iterator[np.ndarray]:
    """Repeat mono blocks [n] on all channels of a layout: [channels, n]."""
    return (np.tile(block, (av.AudioLayout(layout).nb_channels, 1)) for block in blocks)


def _samples(block: av.AudioFrame) -> np.ndarray:
    """Return `limited` samples [channels, n]. The block is interleaved: PyAV miscounts the planes of 7.1."""
    return limited(block.to_ndarray().reshape(-1, block.layout.nb_channels).T)


def limited(samples: np.ndarray) -> np.ndarray:
    """Replace NaN by 0 and clip samples to +-_MAX_AMPLITUDE."""
    return np.nan_to_num(samples, nan=0.0).clip(-_MAX_AMPLITUDE, _MAX_AMPLITUDE)


class AudioWindows:
    """Mono audio windows of a video (mixing: audio_file.py), read forward in constant memory."""

    def __init__(self, source: str | Path | MediaInfo, rate: int = 16_000, sound: AudioSource | None = None) -> None:
        """sound: replaces the audio of the video. Raises UserError as probe does, and for a video without audio."""
        info = source if isinstance(source, MediaInfo) else probe(source)
        mix = partial(to_mono, restored=info.repaired.restore)
        self._blocks = mix(audio_blocks(info, rate), rate) if sound is None else to_mono(sound(rate, None), rate)
        self._buffer, self._last_start = SoundBuffer(), -math.inf
        self._buffer.append(next(self._blocks, np.zeros(0, np.float32)))

    def read(self, start: int, length: int) -> np.ndarray:
        """Return samples [start, start + length): float32 [length], zeros before second 0 and after the end.

        Raises ValueError if `start` decreases, UserError if the audio breaks in the middle.
        """
        if start < self._last_start:
            raise ValueError(f"windows are read forward: {start} after {self._last_start}")
        self._last_start = start
        while self._buffer.end < start + length and (block := next(self._blocks, None)) is not None:
            self._buffer.append(block)
            self._buffer.drop(start)
        return self._buffer.window(start, length)


class SoundBuffer:
    """Buffer of received samples that may still be read."""

    def __init__(self) -> None:
        self._blocks: deque[np.ndarray] = deque()
        self.first = self.end = 0  # indices of the first buffered sample and of the next one to come

    def append(self, block: np.ndarray) -> None:
        """Append a block, float32 [n]."""
        self._blocks.append(block)
        self.end += len(block)

    def drop(self, before: int) -> None:
        """Drop blocks that end before a sample index."""
        while self._blocks and self.first + len(self._blocks[0]) <= before:
            self.first += len(self._blocks.popleft())

    def window(self, start: int, length: int) -> np.ndarray:
        """Return samples [start, start + length), float32, zeros where there are none; drop those before `start`."""
        self.drop(start)
        window, offset = np.zeros(length, np.float32), self.first - start
        for block in self._blocks:
            part = block[max(-offset, 0) : max(length - offset, 0)]
            window[max(offset, 0) : max(offset, 0) + len(part)] = part
            offset += len(block)
        return window


_MIN_REMAINDER = 0.1  # a remainder below this share of an interval is merged into the last full one


def mask_count(duration: float, fps: float) -> int:
    """Number of masks of a video: one per interval; a remainder below a tenth of an interval is not counted."""
    return max(1, math.ceil(duration * fps - _MIN_REMAINDER))


def clip_windows(waveform: np.ndarray, spec: ClipSpec, count: int) -> np.ndarray:
    """Cut waveform [n], float32 at 16 kHz, into windows at the rate of `spec`, of masks 0..count-1: [count, window]."""
    if spec.sample_rate != RATE and len(waveform):
        waveform = resample(torch.from_numpy(waveform), RATE, spec.sample_rate).numpy()
    return cut_windows(waveform, spec, count)


def cut_windows(waveform: np.ndarray, spec: ClipSpec, count: int) -> np.ndarray:
    """Cut waveform [n], float32 at the rate of `spec`, into windows of masks 0..count-1: [count, spec.window]. Windows
    are padded with zeros.
    """
    buffer = SoundBuffer()
    buffer.append(waveform)
    windows = [buffer.window(spec.window_start(index), spec.window) for index in range(count)]
    return np.array(windows, np.float32).reshape(count, spec.window)
