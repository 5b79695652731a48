"""The sound that replaces a video's own: none, noise, or that of another video (`media.audio_windows.AudioSource`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from av import AudioLayout

from icf_avs.errors import UserError
from icf_avs.media.audio_file import to_mono
from icf_avs.media.audio_windows import AudioSource, audio_blocks
from icf_avs.media.video_reader import MediaInfo

_LOUDNESS_RATE = 16_000


def silence(info: MediaInfo) -> AudioSource:
    """Zeros, as long as the video."""
    return lambda rate, layout: (np.zeros(shape, np.float32) for shape in _shapes(info, rate, layout))


def noise(info: MediaInfo, seed: int = 0) -> AudioSource:
    """White Gaussian noise, the same in all channels, as loud (root mean square) as the video's own sound.

    Raises UserError, when it is read, if the video has no sound.
    """

    def blocks(rate: int, layout: str | None) -> Iterator[np.ndarray]:
        power, count = 0.0, 0
        for block in to_mono(audio_blocks(info, _LOUDNESS_RATE), _LOUDNESS_RATE):
            power += float(np.square(block, dtype=np.float64).sum())
            count += len(block)
        loudness, rng = (power / max(count, 1)) ** 0.5, np.random.default_rng(seed)
        for channels, size in _shapes(info, rate, layout):
            yield np.tile((loudness * rng.standard_normal(size)).astype(np.float32), (channels, 1))

    return blocks


def of_clip(info: MediaInfo, other: MediaInfo) -> AudioSource:
    """The sound of another video, again and again where it is shorter, cut where it is longer.

    Raises UserError, when it is read, if that has no sound.
    """

    def blocks(rate: int, layout: str | None) -> Iterator[np.ndarray]:
        left = round(info.duration * rate)
        while left > 0:
            before = left
            for block in audio_blocks(other, rate, layout):
                yield block[:, :left]
                left -= block.shape[1]
                if left <= 0:
                    return
            if left == before:
                raise UserError(f"{other.path}: its sound holds nothing; name another clip")

    return blocks


def _shapes(info: MediaInfo, rate: int, layout: str | None) -> Iterator[tuple[int, int]]:
    """(channels, samples) of each block, a second at most: all of them last as long as the video."""
    total, channels = round(info.duration * rate), 1 if layout is None else AudioLayout(layout).nb_channels
    return ((channels, min(rate, total - start)) for start in range(0, total, rate))
