"""Read an audio file of any format, rate and number of channels as a mono waveform; resample waveforms.

Mono is the mean of the channels, with a correction where channels cancel each other: the mean of two channels of
opposite polarity is silence, although players play both. In each octave of one-second segments that overlap by half, a
channel is left out of the mean if its sum with an earlier one has less than a tenth of the energy of the sum of
uncorrelated channels. Segments without such channels are not changed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, count, groupby, pairwise, takewhile
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.errors import UserError
from icf_avs.media.container import check_no_pipe, local_url

_CANCELLED = 0.1  # energy of the sum of two channels over the sum of their energies; 1 if they are uncorrelated
_RELEVANT = 1e-3  # share of the energy of a segment; octaves with less are ignored
_MIN_HZ = 20  # Hz; below are DC offsets, not sound


def to_mono(
    blocks: Iterator[np.ndarray], rate: int, restored: Callable[[float], None] = lambda seconds: None
) -> Iterator[np.ndarray]:
    """Mix float32 [channels, n] blocks at `rate` to mono blocks, float32 [n]: same total length, delay about a second.

    restored(seconds) is called for each segment in which a channel is left out.
    """
    for channels, same_layout in groupby(blocks, key=len):
        if channels == 1:
            yield from (block[0] for block in same_layout)
        else:
            yield from _mix_to_mono(same_layout, channels, rate, restored)


def _mix_to_mono(
    blocks: Iterator[np.ndarray], channels: int, rate: int, restored: Callable[[float], None]
) -> Iterator[np.ndarray]:
    hop = rate // 2
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)).astype(np.float32)  # its squares sum to one
    previous, mean, overlap = np.zeros((channels, hop), np.float32), np.zeros(0, np.float32), 0.0
    for segment in chain(_cut(blocks, hop), [previous[:, :0]]):
        current = np.pad(segment, ((0, 0), (0, hop - segment.shape[1])))
        correction = window * _mean_correction(window * np.concatenate([previous, current], axis=1))
        mean_correction = (overlap + correction[:hop])[: len(mean)]
        if mean_correction.any():
            restored(len(mean) / rate)
        yield mean + mean_correction
        previous, mean, overlap = current, segment.mean(axis=0), correction[hop:]


def _cut(blocks: Iterator[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Re-block [channels, n] to blocks [channels, length]; the last one may be shorter."""
    buffer = None
    for block in blocks:
        buffer = block if buffer is None else np.concatenate([buffer, block], axis=1)
        while buffer.shape[1] >= length:
            yield buffer[:, :length]
            buffer = buffer[:, length:]
    if buffer is not None and buffer.size:
        yield buffer


def _mean_correction(segment: np.ndarray) -> np.ndarray:
    """Return the correction to the mean of the channels of a segment: float32 [channels, n] -> [n], usually zeros."""
    spectrum = np.fft.rfft(segment)
    correction = np.zeros_like(spectrum[0])
    edges = [
        *takewhile(lambda edge: edge < len(correction), (_MIN_HZ << octave for octave in count())),
        len(correction),
    ]
    octaves = [slice(*pair) for pair in pairwise(edges)]  # a segment lasts a second, so bin numbers are Hz
    products = [(spectrum[:, octave] @ spectrum[:, octave].conj().T).real for octave in octaves]
    min_energy = _RELEVANT * sum(np.trace(product) for product in products)
    for octave, product in zip(octaves, products, strict=True):
        channels = _uncancelled_channels(product, min_energy)
        if len(channels) < len(product):
            correction[octave] = spectrum[channels, octave].mean(axis=0) - spectrum[:, octave].mean(axis=0)
    return (
        np.fft.irfft(correction, segment.shape[1]).astype(np.float32) if correction.any() else np.zeros_like(segment[0])
    )


def _uncancelled_channels(product: np.ndarray, min_energy: float) -> list[int]:
    """Return the channels that do not cancel an earlier one, given their inner products [channels, channels]. The
    earlier channel is kept, not the louder: alternating choices would cancel where segments overlap.
    """
    uncancelled: list[int] = []
    for channel in range(len(product)):
        separate_energy = product[channel, channel] + product.diagonal()[uncancelled]
        sum_energy = separate_energy + 2 * product[channel, uncancelled]
        if not ((separate_energy > min_energy) & (sum_energy < _CANCELLED * separate_energy)).any():
            uncancelled.append(channel)
    return uncancelled


def read_audio(source: Path | bytes, rate: int, advice: str = "") -> tuple[np.ndarray, int]:
    """Read mono audio, float32 [n] at `rate` Hz; also return the rate of the file (Hz). source: a file, or its bytes.

    Raises UserError, with `advice`, if there is no audio or it cannot be decoded.
    """
    label, advice = f"{len(source)} bytes" if isinstance(source, bytes) else source, advice and f"; {advice}"
    if not isinstance(source, bytes):
        check_no_pipe(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else local_url(source)
        with av.open(file, options={} if isinstance(source, bytes) else {"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise UserError(f"{label}: no sound in it{advice}")
            file_rate = container.streams.audio[0].rate
            # Keep the channels: the resampler's mixing is not their mean.
            resampler = av.AudioResampler("fltp", None, rate)
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            parts += resampler.resample(None) if parts else []
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be decoded as sound ({reason}){advice}") from error
    if not parts:
        raise UserError(f"{label}: its sound is empty{advice}")
    return np.concatenate([*to_mono((part.to_ndarray() for part in parts), rate)]).astype(np.float32), file_rate


_ZEROS = 24  # zero crossings of the sinc on each side: the transition band is about 8 % of the lower Nyquist frequency
_CUTOFF = 0.95  # cutoff as a share of the lower Nyquist frequency


def resample(waveform: Tensor, rate: int, to: int) -> Tensor:
    """Resample a waveform [..., n] at `rate` Hz to [..., ceil(n * to / rate)] at `to` Hz, with zero padding.

    Raises ValueError for a rate below 1.
    """
    if rate < 1 or to < 1:
        raise ValueError(f"rates are {rate} and {to}; they must be positive")
    if rate == to:
        return waveform
    step = math.gcd(rate, to)
    up, down = to // step, rate // step
    kernel, half_width = _kernel(up, down)
    length = -(-waveform.shape[-1] * up // down)
    padded = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (half_width, half_width + down))
    phases = F.conv1d(padded, kernel.to(waveform), stride=down)  # N up blocks
    return phases.transpose(1, 2).reshape(*waveform.shape[:-1], -1)[..., :length]


@lru_cache(maxsize=8)
def _kernel(up: int, down: int) -> tuple[Tensor, int]:
    """Return the polyphase filter [up, 1, 2 * half_width + down + 1], one row per phase, and half_width."""
    cutoff = _CUTOFF * min(1.0, up / down)
    half_width = math.ceil(_ZEROS / cutoff)
    offsets = torch.arange(up, dtype=torch.float64) * down / up
    samples = torch.arange(-half_width, half_width + down + 1, dtype=torch.float64)
    crossings = ((samples - offsets[:, None]) * cutoff).clamp(-_ZEROS, _ZEROS)
    window = torch.cos(crossings * (math.pi / 2 / _ZEROS)) ** 2
    return (cutoff * torch.sinc(crossings) * window)[:, None].float(), half_width
