"""Sounds to hear in place of a video's own: none, noise, another clip's. The pictures stay as they are.

What they are follows the controls of `icf evaluate` (probe/sounds.py), here made for any rate, as they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from av import AudioLayout

from icf_avs.data.audio_windows import Sound, sound_blocks
from icf_avs.data.downmix import mono
from icf_avs.data.media import MediaInfo
from icf_avs.errors import UserError

_LOUDNESS_RATE = 16_000


def silence(info: MediaInfo) -> Sound:
    """Zeros, as long as the video."""

    def blocks(rate: int, layout: str | None) -> Iterator[np.ndarray]:
        for size in _sizes(info, rate):
            yield np.zeros((_channels(layout), size), np.float32)

    return blocks


def noise(info: MediaInfo, seed: int = 0) -> Sound:
    """White Gaussian noise, the same in all channels, as loud (root mean square) as the video's own sound.

    Raises UserError, when it is asked for, if the video has no sound.
    """

    def blocks(rate: int, layout: str | None) -> Iterator[np.ndarray]:
        loudness = _loudness(info)
        rng = np.random.default_rng(seed)
        for size in _sizes(info, rate):
            yield np.tile((loudness * rng.standard_normal(size)).astype(np.float32), (_channels(layout), 1))

    return blocks


def of_clip(info: MediaInfo, other: MediaInfo) -> Sound:
    """The sound of another video, again and again where it is shorter, cut where it is longer.

    Raises UserError, when it is asked for, if that has no sound.
    """

    def blocks(rate: int, layout: str | None) -> Iterator[np.ndarray]:
        left = round(info.duration * rate)
        while left > 0:
            before = left
            for block in sound_blocks(other, rate, layout):
                yield block[:, :left]
                left -= block.shape[1]
                if left <= 0:
                    return
            if left == before:
                raise UserError(f"{other.path}: its sound holds nothing; name another clip")

    return blocks


def _channels(layout: str | None) -> int:
    return 1 if layout is None else AudioLayout(layout).nb_channels


def _sizes(info: MediaInfo, rate: int) -> Iterator[int]:
    """Samples of each block, a second at most: all of them last as long as the video."""
    total = round(info.duration * rate)
    for start in range(0, total, rate):
        yield min(rate, total - start)


def _loudness(info: MediaInfo) -> float:
    power, count = 0.0, 0
    for block in mono(sound_blocks(info, _LOUDNESS_RATE), _LOUDNESS_RATE):
        power += float(np.square(block, dtype=np.float64).sum())
        count += len(block)
    return (power / count) ** 0.5 if count else 0.0
