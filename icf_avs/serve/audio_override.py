"""Audio that replaces that of a video: silence, noise, or the audio of another video (`audio_windows.AudioSource`)."""

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
    """Return zeros with the duration of the video."""
    return lambda rate, layout: (np.zeros(shape, np.float32) for shape in _shapes(info, rate, layout))


def noise(info: MediaInfo, seed: int = 0) -> AudioSource:
    """Return white Gaussian noise, the same in all channels, as loud (root mean square) as the audio of the video.

    Raises UserError, when read, if the video has no audio.
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
    """Return the audio of another video, repeated if it is shorter and cut if it is longer.

    Raises UserError, when read, if that video has no audio.
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
    """Yield (channels, samples) per block, at most one second each. Together they last as long as the video."""
    total, channels = round(info.duration * rate), 1 if layout is None else AudioLayout(layout).nb_channels
    return ((channels, min(rate, total - start)) for start in range(0, total, rate))
