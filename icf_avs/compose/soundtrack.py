"""The sound of a composed clip: recordings trimmed, repeated or cut to their seconds, made about as loud, and added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icf_avs.avsbench.sound import RATE, read_wave
from icf_avs.compose.scenes import SECONDS, Source
from icf_avs.compose.sounds import Recording
from icf_avs.errors import UserError

_LOUDNESS = 0.1  # root mean square of a source while it sounds, before the gain
_GAIN = 3.0  # dB up or down
_EDGE = 0.02  # of the peak: what is softer, at the ends of a recording, is no part of it
_HEARD = 0.05  # of a source's loudest second: one that is softer does not count as sounding
_FADE = RATE // 100


def readable(recordings: Sequence[Recording], unusable: set[str]) -> tuple[Recording, np.ndarray]:
    """The first of the recordings that can be read, and its sound without silent ends, float32 [n] at 16 kHz.

    The names of others are added to `unusable`. Raises UserError if there is none.
    """
    last = None
    for recording in recordings:
        try:
            wave = read_wave(recording.path)
        except UserError as error:
            unusable.add(recording.name)
            last = error
            continue
        loud = np.flatnonzero(np.abs(wave) > _EDGE * np.abs(wave).max(initial=0))
        if len(loud) and np.abs(wave).max() > 1e-3:
            return recording, wave[loud[0] : loud[-1] + 1]
        unusable.add(recording.name)
    kind = recordings[0].kind
    raise UserError(f"{len(recordings)} recordings of {kind} cannot be used: {last or 'they are silent'}; replace them")


def mixed(
    sources: Sequence[Source], waves: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """int16 [SECONDS * RATE], and which source is heard in which second, bool [n, SECONDS]."""
    tracks = np.zeros((len(sources), SECONDS * RATE))
    for track, source, wave in zip(tracks, sources, waves, strict=True):
        length = (source.end - source.start) * RATE
        offset = int(rng.integers(max(len(wave) - length, 0) + 1))
        piece = np.resize(wave[offset : offset + length], length).astype(np.float64)  # repeated where it is shorter
        piece *= _LOUDNESS * 10 ** (rng.uniform(-_GAIN, _GAIN) / 20) / np.sqrt(np.mean(piece**2))
        fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / _FADE)
        track[source.start * RATE : source.end * RATE] = piece * fade
    loudness = np.sqrt((tracks.reshape(len(sources), SECONDS, RATE) ** 2).mean(-1))
    sound = tracks.sum(0)
    sound *= min(1, 0.95 / np.abs(sound).max())
    return np.round(sound * 32767).astype(np.int16), loudness > _HEARD * loudness.max(1, keepdims=True)
