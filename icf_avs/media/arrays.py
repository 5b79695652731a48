"""Convert frames and audio given as arrays to the form in which they are read from videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch

from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio
from icf_avs.media.audio_windows import AudioSource, limited, spread

Array = np.ndarray | torch.Tensor
Audio = str | Path | Array | AudioSource
Pair = tuple[Array | None, Array | None]
_MAX_CHANNELS = 64  # an array with more is rejected: its axes are probably swapped, [n, channels]


def frames_of(frames: Array, dims: int) -> np.ndarray:
    """Return frames as uint8 RGB [T,H,W,3], or if dims is 3 one frame [H,W,3]. Raises UserError for other arrays."""
    array = _numpy(frames)
    if array.dtype != np.uint8 or array.ndim != dims or array.shape[-1] != 3 or 0 in array.shape:
        expected = "[T, H, W, 3]" if dims == 4 else "[H, W, 3]"
        raise UserError(f"frames are {array.dtype} {list(array.shape)}; give RGB as uint8 {expected}")
    return array


def waveform_of(audio: Array) -> np.ndarray:
    """Convert samples [n] or [channels, n], floats of full scale 1 or signed integers, to float32 [channels, n].

    Raises UserError for another type or shape, and for NaN or infinite samples.
    """
    array = _numpy(audio)
    if array.dtype.kind not in "fi" or not 1 <= array.ndim <= 2 or len(np.atleast_2d(array)) > _MAX_CHANNELS:
        raise UserError(
            f"the audio is {array.dtype} {list(array.shape)}; give float or int16 samples, [n] or [channels, n]"
        )
    if not np.isfinite(array).all():
        raise UserError("the audio has samples that are NaN or infinite; give finite ones, 0 for silence")
    full_scale = 1 if array.dtype.kind == "f" else -np.iinfo(array.dtype).min
    return np.atleast_2d(limited(array.astype(np.float32) / full_scale))


def _numpy(array: Array) -> np.ndarray:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


class AVChunk(NamedTuple):
    """Next part of a stream: a frame uint8 [H,W,3] (or a function that returns it, as few frames are used), the audio
    after it, [n] or [channels,n], or both; time: seconds at which the frame is shown, if known.
    """

    frame: Array | Callable[[], np.ndarray] | None
    audio: Array | None
    time: float | None = None


def chunks_of_pairs(source: Iterable[Pair]) -> Iterator[AVChunk]:
    """Yield the pairs of a source as chunks. Raises UserError for anything but pairs."""
    for pair in source if isinstance(source, Iterable) else [source]:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"a {type(pair).__name__} is no pair; give pairs of a frame and the sound that follows it")
        yield AVChunk(*pair)


def chunks_of(frames: Iterable[Array], frame_rate: float, waveform: np.ndarray, rate: int) -> Iterator[AVChunk]:
    """Yield frames [H,W,3] with their part of the audio [n] at `rate` Hz; audio beyond the last frame comes last."""
    end = number = 0
    for number, frame in enumerate(frames, 1):
        begin, end = end, round(number / frame_rate * rate)
        yield AVChunk(frame, waveform[begin:end], (number - 1) / frame_rate)
    yield AVChunk(None, waveform[end:], number / frame_rate)


class Resampler:
    """Streaming resampler of blocks float32 [channels, n]; returns the output samples available so far."""

    def __init__(self, channels: int, rate: int, to: int) -> None:
        self._rate, self._is_same = rate, rate == to
        # One resampler per channel: FFmpeg's layouts have at most eight channels.
        self._channels = [av.AudioResampler("flt", "mono", to) for _ in range(channels)]

    def __call__(self, block: np.ndarray | None) -> np.ndarray:
        """Resample a block; None flushes the rest at the end."""
        if self._is_same or (block is not None and not block.size):
            return np.zeros((len(self._channels), 0), np.float32) if block is None else block
        resampled, frame = [], None
        for number, resampler in enumerate(self._channels):
            if block is not None:
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block[number : number + 1]), "flt", "mono")
                frame.sample_rate = self._rate
            parts = (part.to_ndarray()[0] for part in resampler.resample(frame))
            resampled.append(np.concatenate([np.zeros(0, np.float32), *parts]))
        return np.stack(resampled)


def audio_source(audio: Audio, sample_rate: int | None) -> AudioSource:
    """Make an AudioSource, which replaces the audio of a video, from a file, samples at `sample_rate`, or a source.

    Raises UserError for samples without a rate. Reading the source raises UserError for a file without audio.
    """
    if callable(audio) and not isinstance(audio, torch.Tensor):
        return audio
    if not isinstance(audio, str | Path):
        waveform, own_rate = waveform_of(audio), round(checked_rate(sample_rate, "sample_rate"))

    def blocks(rate: int, layout: str | None) -> Iterator[np.ndarray]:
        if isinstance(audio, str | Path):
            blocks_of_source = iter([read_audio(Path(audio), rate)[0][None]])
        else:
            resampler, starts = Resampler(len(waveform), own_rate, rate), range(0, waveform.shape[1], own_rate)
            one_second_blocks = [*(waveform[:, at : at + own_rate] for at in starts), None]
            blocks_of_source = (block for block in map(resampler, one_second_blocks) if block.size)
        return blocks_of_source if layout is None else spread((block.mean(0) for block in blocks_of_source), layout)

    return blocks


def checked_rate(rate: float | None, name: str) -> float:
    """Return a rate. Raises UserError, with its name, unless it is a number of at least 1."""
    if rate is None or not 1 <= rate < math.inf:
        raise UserError(f"{name} is {rate}; give that of the arrays, in Hz")
    return rate
