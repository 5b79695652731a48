"""The recordings of the embedded benchmark as waveforms that can be mixed at once: mono float32 at 16 kHz.

Each recording is trimmed, its inner pauses are shortened, its loudness made equal, and speeds from 0.85 to 1.18 are
prepared, which changes pitch and tempo together as a tape does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from icf_avs.media.audio_file import read_audio
from icf_avs.synthetic.audio_augment import PLAIN, TEMPI, AudioAugmentConfig, source_length, speed_perturb, time_stretch
from icf_avs.synthetic.catalog import Catalog
from icf_avs.types import RATE

SPEEDS = tuple(float(speed) for speed in np.geomspace(0.85, 1.18, 9))
_FRAME = 160  # samples, 10 ms
_QUIET_DB = -35.0  # below the loudest frame: counts as silence
_LONGEST_PAUSE = 0.25  # seconds; so that a sounding object sounds in every second
_LEVEL = 0.1  # RMS of the frames that are not silent
NOISES = ("white", "pink", "brown")


def frame_rms(waveform: np.ndarray, frame: int = _FRAME) -> np.ndarray:
    """RMS of consecutive frames, [ceil(N / frame)]; the last frame is padded with zeros."""
    padded = np.pad(waveform, (0, -len(waveform) % frame))
    return np.sqrt(np.mean(np.square(padded.reshape(-1, frame)), axis=1))


def trim_and_normalize(waveform: np.ndarray) -> np.ndarray:
    """Trim silence at both ends, shorten inner pauses, remove the mean, and bring the loudness to one level.

    Raises ValueError for a waveform that is silent throughout.
    """
    waveform = waveform - waveform.mean(dtype=np.float64).astype(np.float32)
    rms = frame_rms(waveform)
    if rms.max(initial=0) < 1e-4:
        raise ValueError("the recording is silent")
    audible = rms > rms.max() * 10 ** (_QUIET_DB / 20)
    since = np.inf  # frames since the last audible one; leading silence counts as a pause already too long
    keep = np.zeros(len(audible), dtype=bool)
    for index, sounding in enumerate(audible):
        since = 0 if sounding else since + 1
        keep[index] = since * _FRAME <= _LONGEST_PAUSE * RATE
    keep[np.flatnonzero(audible)[-1] + 1 :] = False
    waveform = np.pad(waveform, (0, -len(waveform) % _FRAME)).reshape(-1, _FRAME)[keep].reshape(-1)
    waveform = (waveform * (_LEVEL / np.sqrt(np.mean(np.square(rms[audible]))))).astype(np.float32)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)  # a frame at least is left
    waveform[:64] *= ramp
    waveform[-64:] *= ramp[::-1]
    return waveform


def resample(waveform: np.ndarray, speed: float) -> np.ndarray:
    """Play a waveform `speed` times as fast (band-limited, by cutting or extending its spectrum)."""
    length = max(round(len(waveform) / speed), 1)
    margin = 512  # zeros behind the waveform keep its end from leaking into its start
    total = round((len(waveform) + margin) / speed)
    spectrum = np.fft.rfft(waveform, len(waveform) + margin)
    bins = total // 2 + 1
    spectrum = spectrum[:bins] if bins <= len(spectrum) else np.pad(spectrum, (0, bins - len(spectrum)))
    return (np.fft.irfft(spectrum, total)[:length] * (total / (len(waveform) + margin))).astype(np.float32)


class SoundBank:
    """The prepared recordings of every class, `recordings`: "train", or "cross" for the second recordings.

    A variant is computed when first requested and kept, so that a mixture costs about a millisecond. The bank can be
    sent to worker processes.
    """

    def __init__(self, catalog: Catalog, recordings: str = "train") -> None:
        if recordings not in ("train", "cross"):
            raise ValueError(f"recordings is {recordings!r}; it must be 'train' or 'cross'")
        self.recordings = recordings
        self._catalog = catalog
        self._made: dict[tuple, np.ndarray] = {}

    def references(self, class_name: str) -> tuple[str, ...]:
        """The recordings of a class in this bank; may be empty for "cross"."""
        entry = self._catalog.sound_class(class_name)
        return entry.recordings if self.recordings == "train" else entry.cross_recordings

    def speed_variant(self, reference: str, speed: int) -> np.ndarray:
        """The waveform of a recording at SPEEDS[speed], float32 [N]; do not write to it."""
        return self._once(("speed", reference, speed), lambda: resample(self._recording(reference), SPEEDS[speed]))

    def tempo_variant(self, reference: str, tempo: int) -> np.ndarray:
        """The waveform of a recording at TEMPI[tempo] and its own pitch, float32 [N]; do not write to it."""
        if TEMPI[tempo] == 1:
            return self._recording(reference)
        return self._once(("tempo", reference, tempo), lambda: time_stretch(self._recording(reference), TEMPI[tempo]))

    def _recording(self, reference: str) -> np.ndarray:
        read = self._catalog.read_recording
        return self._once((reference,), lambda: trim_and_normalize(read_audio(read(reference), RATE)[0]))

    def _once(self, key: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def loop_recording(self, class_name: str, samples: int, rng: np.random.Generator) -> np.ndarray:
        """`samples` samples of a class sounding: a random recording, speed and offset, looped with gaps <= 0.25 s."""
        reference = self._any(class_name, rng)
        return _loop(self.speed_variant(reference, int(rng.integers(len(SPEEDS)))), samples, rng)

    def loop_augmented(
        self, class_name: str, samples: int, style: AudioAugmentConfig, rng: np.random.Generator
    ) -> np.ndarray:
        """As `loop_recording`, at a tempo of TEMPI and, on top of it, any pitch that the style allows."""
        waveform = self.tempo_variant(self._any(class_name, rng), int(rng.integers(len(TEMPI))))
        octaves = rng.uniform(-style.pitch_octaves, style.pitch_octaves)
        source = _loop(waveform, source_length(samples, octaves, style.glide_octaves), rng)
        return speed_perturb(source, samples, octaves, style.glide_octaves, rng)

    def _any(self, class_name: str, rng: np.random.Generator) -> str:
        references = self.references(class_name)
        if not references:
            raise ValueError(f"the class {class_name} has no {self.recordings} recording")
        return references[rng.integers(len(references))]

    def prepare_all(self, style: AudioAugmentConfig = PLAIN) -> None:
        """Prepare everything now (a few seconds), for example before worker processes are started."""
        for each in self._catalog.classes:
            for reference in self.references(each.name):
                for speed in range(len(SPEEDS)):
                    self.speed_variant(reference, speed)
                for tempo in range(len(TEMPI) if style.augment_prob else 0):
                    self.tempo_variant(reference, tempo)


def _loop(waveform: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """`samples` samples of a waveform from a random offset on, over and over with gaps <= 0.25 s."""
    track = np.zeros(samples, dtype=np.float32)
    at = -int(rng.integers(len(waveform)))
    while at < samples:
        start, end = max(at, 0), min(at + len(waveform), samples)
        if end > start:
            track[start:end] = waveform[start - at : end - at]
        at += len(waveform) + int(rng.uniform(0.0, _LONGEST_PAUSE) * RATE)
    return track


def tilt_and_reverb(track: np.ndarray, rng: np.random.Generator, reverb: bool) -> np.ndarray:
    """A gentle random tilt of the spectrum (at most 4 dB an octave) and, if asked, a short random reverberation."""
    size = fast_length(len(track) + RATE // 2)
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50.0)
    tilt = rng.uniform(-4.0, 4.0)
    response = 10 ** (np.clip(tilt * np.log2(frequency / 1000), -12, 12) / 20)
    if reverb:
        length = int(rng.uniform(0.08, 0.3) * RATE)
        tail = rng.standard_normal(length) * np.exp(-np.linspace(0, 6.9, length)) / math.sqrt(length)
        tail *= rng.uniform(0.5, 2.5)
        tail[0] = 1.0
        response = response * np.fft.rfft(tail, size)
    return np.fft.irfft(np.fft.rfft(track, size) * response, size)[: len(track)].astype(np.float32)


def noise(kind: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """White, pink or brown noise of RMS 1, float32 [samples]. Raises ValueError for another kind."""
    if kind not in NOISES:
        raise ValueError(f"noise kind is {kind!r}; it must be one of {', '.join(NOISES)}")
    white = rng.standard_normal(samples)
    if kind != "white":
        size = fast_length(samples)
        frequency = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20.0)
        shaped = np.fft.rfft(white, size) * frequency ** (-0.5 if kind == "pink" else -1.0)
        white = np.fft.irfft(shaped, size)[:samples]
    return (white / max(np.sqrt(np.mean(np.square(white))), 1e-9)).astype(np.float32)


def fast_length(samples: int) -> int:
    """The smallest 2^k or 3*2^k that holds `samples`: lengths which the FFT likes."""
    power = 1 << max(samples - 1, 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= samples else power
