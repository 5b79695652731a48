"""Channels to mono: their mean, and where channels cancel each other in it, what one of them holds.

The mean of two channels of opposite polarity is silence, though players play both. So in stretches of a second that
overlap by half, and in each octave, a channel is left out of the mean where it and an earlier one sum to less than a
tenth of the energy that uncorrelated channels sum to. Where there is no such stretch, the mean stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, count, groupby, pairwise, takewhile

import numpy as np

_CANCELLED = 0.1  # energy of the sum of two channels over the sum of their energies; 1 where they are uncorrelated
_RELEVANT = 1e-3  # share of the energy of a stretch; less of it in an octave does not matter
_LOWEST = 20  # Hz; below are offsets, not sound


def to_mono(
    blocks: Iterator[np.ndarray], rate: int, restored: Callable[[float], None] = lambda seconds: None
) -> Iterator[np.ndarray]:
    """float32 [channels, n] blocks at `rate` -> float32 [n] blocks, as many samples in all, about a second behind.

    restored(seconds) is called for each piece in which a channel is left out.
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
    for now, now_mean in chain(_halves(blocks, hop), [(np.zeros_like(before), mean)]):
        lost = window * _lost(window * np.concatenate([before, now], axis=1))
        added = (rest + lost[:hop])[: len(mean)]
        if added.any():
            restored(len(mean) / rate)
        yield mean + added
        before, mean, rest = now, now_mean, lost[hop:]


def _halves(blocks: Iterator[np.ndarray], hop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """[channels, hop], zeros behind the end, and the mean of the channels, as long as there is sound."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    length = 0
    for block in blocks:
        parts.append((block, block.mean(axis=0)))
        length += block.shape[1]
        while length >= hop:
            whole, mean = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
            yield whole[:, :hop], mean[:hop]
            parts, length = [(whole[:, hop:], mean[hop:])], length - hop
    if length:
        whole, mean = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        yield np.pad(whole, ((0, 0), (0, hop - length))), mean


def _lost(stretch: np.ndarray) -> np.ndarray:
    """What the mean of the channels of a stretch (float32 [channels, n]) lacks: float32 [n], zeros as a rule."""
    spectrum = np.fft.rfft(stretch)
    lost = np.zeros_like(spectrum[0])
    edges = [*takewhile(lambda edge: edge < len(lost), (_LOWEST << octave for octave in count())), len(lost)]
    octaves = [slice(*pair) for pair in pairwise(edges)]  # a stretch lasts a second, so that bins are Hz
    products = [(spectrum[:, octave] @ spectrum[:, octave].conj().T).real for octave in octaves]
    least = _RELEVANT * sum(np.trace(product) for product in products)
    for octave, product in zip(octaves, products, strict=True):
        kept = _kept(product, least)
        if len(kept) < len(product):
            lost[octave] = spectrum[kept, octave].mean(axis=0) - spectrum[:, octave].mean(axis=0)
    return np.fft.irfft(lost, stretch.shape[1]).astype(np.float32) if lost.any() else np.zeros_like(stretch[0])


def _kept(product: np.ndarray, least: float) -> list[int]:
    """Which channels do not cancel an earlier one, by their products [channels, channels]. Always the earlier one is
    kept, not the louder: a choice that changed from stretch to stretch would itself cancel where they overlap.
    """
    kept: list[int] = []
    for channel in range(len(product)):
        apart = product[channel, channel] + product.diagonal()[kept]
        together = apart + 2 * product[channel, kept]
        if not ((apart > least) & (together < _CANCELLED * apart)).any():
            kept.append(channel)
    return kept
