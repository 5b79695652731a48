"""Sound of composed scenes: the recordings of the embedded benchmark and mixtures of them, mono float32 at 16 kHz.

Each recording is trimmed, its inner pauses are shortened, and its loudness is normalised. Variants at speeds from 0.85
to 1.18 are prepared, in which pitch and tempo change together. Each sounding stamp has a track. Whether it sounds in an
interval is measured on that track, not taken from the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from icf_avs.media.audio_file import read_audio
from icf_avs.media.audio_windows import cut_windows
from icf_avs.synthetic import audio_augment
from icf_avs.synthetic.audio_augment import PLAIN, TEMPI, AudioAugmentConfig, source_length, speed_perturb, time_stretch
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.scene import Scene
from icf_avs.types import RATE, ClipSpec

SPEEDS = tuple(float(speed) for speed in np.geomspace(0.85, 1.18, 9))
_FRAME = 160  # samples, 10 ms
_QUIET_DB = -35.0  # relative to the loudest frame; below it counts as silence
_LONGEST_PAUSE = 0.25  # seconds; so that a sounding object sounds in every second
_LEVEL = 0.1  # RMS of the frames that are not silent
NOISES = ("white", "pink", "brown")
_WINDOW_DB = -30.0  # a window this far below the track's loudest one counts as silent
_FRAME_DB = -35.0  # the same for the frames of 25 ms inside a window
_MIN_ACTIVE_SHARE = 0.15  # minimum share of sounding frames in a window that sounds
_FADE = 0.02  # seconds


def frame_rms(waveform: np.ndarray, frame: int = _FRAME) -> np.ndarray:
    """RMS of consecutive frames, [ceil(N / frame)]; the last frame is padded with zeros."""
    padded = np.pad(waveform, (0, -len(waveform) % frame))
    return np.sqrt(np.mean(np.square(padded.reshape(-1, frame)), axis=1))


def trim_and_normalize(waveform: np.ndarray) -> np.ndarray:
    """Trim silence at both ends, shorten inner pauses, remove the mean, and normalise the loudness.

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
    ramp = np.linspace(0, 1, 64, dtype=np.float32)  # at least one frame is left
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
    """Prepared recordings of every class. recordings: "train", or "cross" for the second recordings.

    A variant is computed on first request and kept, so that a mixture takes about a millisecond. The bank can be
    sent to worker processes.
    """

    def __init__(self, catalog: Catalog, recordings: str = "train") -> None:
        if recordings not in ("train", "cross"):
            raise ValueError(f"recordings is {recordings!r}; it must be 'train' or 'cross'")
        self.recordings = recordings
        self._catalog = catalog
        self._cache: dict[tuple, np.ndarray] = {}

    def references(self, class_name: str) -> tuple[str, ...]:
        """Return the recordings of a class in this bank; may be empty for "cross"."""
        entry = self._catalog.sound_class(class_name)
        return entry.recordings if self.recordings == "train" else entry.cross_recordings

    def speed_variant(self, reference: str, speed: int) -> np.ndarray:
        """Return the waveform of a recording at SPEEDS[speed], float32 [N]; do not write to it."""
        return self._cached(("speed", reference, speed), lambda: resample(self._recording(reference), SPEEDS[speed]))

    def tempo_variant(self, reference: str, tempo: int) -> np.ndarray:
        """Return the waveform of a recording at TEMPI[tempo] and original pitch, float32 [N]; do not write to it."""
        if TEMPI[tempo] == 1:
            return self._recording(reference)
        return self._cached(("tempo", reference, tempo), lambda: time_stretch(self._recording(reference), TEMPI[tempo]))

    def _recording(self, reference: str) -> np.ndarray:
        read = self._catalog.read_recording
        return self._cached((reference,), lambda: trim_and_normalize(read_audio(read(reference), RATE)[0]))

    def _cached(self, key: tuple, make: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def loop_recording(self, class_name: str, samples: int, rng: np.random.Generator) -> np.ndarray:
        """Return `samples` samples of a class: a random recording, speed and offset, looped with gaps <= 0.25 s."""
        reference = self._random_reference(class_name, rng)
        return _loop(self.speed_variant(reference, int(rng.integers(len(SPEEDS)))), samples, rng)

    def loop_augmented(
        self, class_name: str, samples: int, style: AudioAugmentConfig, rng: np.random.Generator
    ) -> np.ndarray:
        """Same as `loop_recording`, at a tempo of TEMPI and, on top of it, any pitch that the style allows."""
        waveform = self.tempo_variant(self._random_reference(class_name, rng), int(rng.integers(len(TEMPI))))
        octaves = rng.uniform(-style.pitch_octaves, style.pitch_octaves)
        source = _loop(waveform, source_length(samples, octaves, style.glide_octaves), rng)
        return speed_perturb(source, samples, octaves, style.glide_octaves, rng)

    def _random_reference(self, class_name: str, rng: np.random.Generator) -> str:
        references = self.references(class_name)
        if not references:
            raise ValueError(f"the class {class_name} has no {self.recordings} recording")
        return references[rng.integers(len(references))]

    def prepare_all(self, style: AudioAugmentConfig = PLAIN) -> None:
        """Compute all variants now (a few seconds), for example before worker processes are started."""
        for each in self._catalog.classes:
            for reference in self.references(each.name):
                for speed in range(len(SPEEDS)):
                    self.speed_variant(reference, speed)
                for tempo in range(len(TEMPI) if style.augment_prob else 0):
                    self.tempo_variant(reference, tempo)


def _loop(waveform: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Loop a waveform for `samples` samples from a random offset, with gaps <= 0.25 s."""
    track = np.zeros(samples, dtype=np.float32)
    at = -int(rng.integers(len(waveform)))
    while at < samples:
        start, end = max(at, 0), min(at + len(waveform), samples)
        if end > start:
            track[start:end] = waveform[start - at : end - at]
        at += len(waveform) + int(rng.uniform(0.0, _LONGEST_PAUSE) * RATE)
    return track


def tilt_and_reverb(track: np.ndarray, rng: np.random.Generator, reverb: bool) -> np.ndarray:
    """Apply a gentle random spectral tilt (at most 4 dB per octave) and, on request, a short random reverberation."""
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
    """Return the smallest 2^k or 3*2^k that is at least `samples`: fast FFT lengths."""
    power = 1 << max(samples - 1, 1).bit_length()
    return power * 3 // 4 if power * 3 // 4 >= samples else power


def render_tracks(
    scene: Scene, bank: SoundBank, variation: int = 0, style: AudioAugmentConfig = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mixture, float32 [N], peak <= 0.99, and the track of each stamp in it, float32 [stamps, N].

    `variation` draws other recordings, speeds, offsets, levels and noise; the schedule stays. `style` sets how far a
    mixture may deviate from its recordings. Two stamps of one class share a track, since the audio cannot distinguish
    them. Deterministic.
    """
    rng = np.random.default_rng([*scene.key, 1 + variation])
    varied = style.augment_prob > 0 and rng.random() < style.augment_prob
    samples = scene.seconds * RATE
    time = np.arange(samples, dtype=np.float32) / RATE
    size = fast_length(samples + round(audio_augment.LONGEST_TAIL * RATE))
    mic = audio_augment.mic_response(style, rng) if varied else None
    tracks = np.zeros((len(scene.stamps), samples), dtype=np.float32)
    levels = -rng.uniform(0, 9, len(scene.stamps))
    loudest = max((levels[i] for i, placed in enumerate(scene.stamps) if placed.spans), default=0.0)
    voices: dict[str, list[int]] = {}
    for index, placed in enumerate(scene.stamps):
        if placed.spans:
            voices.setdefault(placed.class_name, []).append(index)
    for class_name, stamps in voices.items():
        ramps = [np.minimum(time - start, end - time) / _FADE + 0.5 for start, end in scene.stamps[stamps[0]].spans]
        gate = np.clip(np.max(ramps, axis=0), 0, 1)
        if mic is not None:
            track = bank.loop_augmented(class_name, samples, style, rng)
            track = track * audio_augment.gain_envelope(samples, style, rng) * gate
            track = audio_augment.apply_room_and_mic(track, mic, size, style, rng)
        else:
            track = bank.loop_recording(class_name, samples, rng) * gate
            track = tilt_and_reverb(track, rng, reverb=rng.random() < 0.4)
        level = np.sqrt(np.mean(np.square(track[track != 0]))) if track.any() else 1.0
        tracks[stamps] = track * (10 ** ((levels[stamps[0]] - loudest) / 20) / level / len(stamps))
    mixture = tracks.sum(axis=0)
    if mic is not None:
        gain = 10 ** (rng.uniform(*style.level_db) / 20)
        hiss = audio_augment.ambient_noise(samples, mic, size, style, rng)
        hiss = hiss * np.float32(10 ** (-rng.uniform(*style.noise_db) / 20))
    else:
        gain = 10 ** (rng.uniform(-32, -14) / 20)
        hiss = noise(NOISES[rng.integers(len(NOISES))], samples, rng) * 10 ** (-rng.uniform(10, 45) / 20)
    if rng.random() < 0.85:
        mixture = mixture + hiss
    if mic is not None:
        mixture = audio_augment.degrade(mixture, style, rng)
    gain = min(gain, 0.99 / max(float(np.abs(mixture).max()), 1e-6))
    return (mixture * gain).astype(np.float32), (tracks * gain).astype(np.float32)


def track_activity(tracks: np.ndarray, spec: ClipSpec) -> np.ndarray:
    """Return which track sounds in which interval: tracks [n, N] -> bool [n, T].

    A track sounds if the RMS of the interval's window is above -30 dB of the track's loudest window and at least
    15 % of the window's frames of 25 ms are above -35 dB of its loudest frame.
    """
    active = np.zeros((len(tracks), spec.frames), dtype=bool)
    for index, track in enumerate(tracks):
        if not track.any():
            continue
        cut = cut_windows(track, spec, spec.frames)
        rms = np.sqrt(np.mean(np.square(cut), axis=1))
        frames = np.stack([frame_rms(window, 400) for window in cut])
        share = np.mean(frames > frames.max() * 10 ** (_FRAME_DB / 20), axis=1)
        active[index] = (rms > rms.max() * 10 ** (_WINDOW_DB / 20)) & (share >= _MIN_ACTIVE_SHARE)
    return active


def render_audio(
    scene: Scene, bank: SoundBank, variation: int = 0, style: AudioAugmentConfig = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mixture float32 [N] at 16 kHz and which stamp sounds in which second, bool [stamps, T], measured."""
    waveform, tracks = render_tracks(scene, bank, variation, style)
    return waveform, track_activity(tracks, ClipSpec(frames=scene.seconds))
