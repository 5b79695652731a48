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
_LOWEST = 20  # Hz; below are DC offsets, not sound


def to_mono(
    blocks: Iterator[np.ndarray], rate: int, restored: Callable[[float], None] = lambda seconds: None
) -> Iterator[np.ndarray]:
    """Mix float32 [channels, n] blocks at `rate` to mono blocks, float32 [n]: same total length, delay about a second.

    restored(seconds) is called for each segment in which a channel is left out.
    """
    for channels, alike in groupby(blocks, key=len):
        if channels == 1:
            yield from (block[0] for block in alike)
        else:
            yield from _mixed(alike, channels, rate, restored)


def _mixed(
    blocks: Iterator[np.ndarray], channels: int, rate: int, restored: Callable[[float], None]
) -> Iterator[np.ndarray]:
    hop = rate // 2
    window = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)).astype(np.float32)  # its squares sum to one
    before, mean, rest = np.zeros((channels, hop), np.float32), np.zeros(0, np.float32), 0.0
    for stretch in chain(_cut(blocks, hop), [before[:, :0]]):
        now = np.pad(stretch, ((0, 0), (0, hop - stretch.shape[1])))
        lost = window * _lost(window * np.concatenate([before, now], axis=1))
        added = (rest + lost[:hop])[: len(mean)]
        if added.any():
            restored(len(mean) / rate)
        yield mean + added
        before, mean, rest = now, stretch.mean(axis=0), lost[hop:]


def _cut(blocks: Iterator[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Re-block [channels, n] to blocks [channels, length]; the last one may be shorter."""
    held = None
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], axis=1)
        while held.shape[1] >= length:
            yield held[:, :length]
            held = held[:, length:]
    if held is not None and held.size:
        yield held


def _lost(stretch: np.ndarray) -> np.ndarray:
    """Return the correction to the mean of the channels of a segment: float32 [channels, n] -> [n], usually zeros."""
    spectrum = np.fft.rfft(stretch)
    lost = np.zeros_like(spectrum[0])
    edges = [*takewhile(lambda edge: edge < len(lost), (_LOWEST << octave for octave in count())), len(lost)]
    octaves = [slice(*pair) for pair in pairwise(edges)]  # a segment lasts a second, so bin numbers are Hz
    products = [(spectrum[:, octave] @ spectrum[:, octave].conj().T).real for octave in octaves]
    least = _RELEVANT * sum(np.trace(product) for product in products)
    for octave, product in zip(octaves, products, strict=True):
        kept = _kept(product, least)
        if len(kept) < len(product):
            lost[octave] = spectrum[kept, octave].mean(axis=0) - spectrum[:, octave].mean(axis=0)
    return np.fft.irfft(lost, stretch.shape[1]).astype(np.float32) if lost.any() else np.zeros_like(stretch[0])


def _kept(product: np.ndarray, least: float) -> list[int]:
    """Return the channels that do not cancel an earlier one, given their inner products [channels, channels]. The
    earlier channel is kept, not the louder: alternating choices would cancel where segments overlap.
    """
    kept: list[int] = []
    for channel in range(len(product)):
        apart = product[channel, channel] + product.diagonal()[kept]
        together = apart + 2 * product[channel, kept]
        if not ((apart > least) & (together < _CANCELLED * apart)).any():
            kept.append(channel)
    return kept


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
            stored = container.streams.audio[0].rate
            # Keep the channels: the resampler's mixing is not their mean.
            resampler = av.AudioResampler("fltp", None, rate)
            parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            parts += resampler.resample(None) if parts else []
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: cannot be decoded as sound ({reason}){advice}") from error
    if not parts:
        raise UserError(f"{label}: its sound is empty{advice}")
    return np.concatenate([*to_mono((part.to_ndarray() for part in parts), rate)]).astype(np.float32), stored


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
    kernel, reach = _kernel(up, down)
    length = -(-waveform.shape[-1] * up // down)
    padded = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (reach, reach + down))
    phases = F.conv1d(padded, kernel.to(waveform), stride=down)  # N up blocks
    return phases.transpose(1, 2).reshape(*waveform.shape[:-1], -1)[..., :length]


@lru_cache(maxsize=8)
def _kernel(up: int, down: int) -> tuple[Tensor, int]:
    """Return the polyphase filter [up, 1, 2 * reach + down + 1], one row per output phase, and its reach in samples."""
    cutoff = _CUTOFF * min(1.0, up / down)
    reach = math.ceil(_ZEROS / cutoff)
    places = torch.arange(up, dtype=torch.float64) * down / up
    samples = torch.arange(-reach, reach + down + 1, dtype=torch.float64)
    crossings = ((samples - places[:, None]) * cutoff).clamp(-_ZEROS, _ZEROS)
    window = torch.cos(crossings * (math.pi / 2 / _ZEROS)) ** 2
    return (cutoff * torch.sinc(crossings) * window)[:, None].float(), reach
