"""Augmentation of recordings in training; tests use PLAIN, which changes nothing.

Pitch and, independently, tempo are changed. Rooms, microphones and ambient noise are simulated, and so are devices that
clip, drop pieces, or code with loss. Training has one or two recordings per class, so these variations separate the
properties of the class from those of the recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from icf_avs.types import RATE

TEMPI = (0.72, 0.85, 1.0, 1.18, 1.4)  # precomputed at constant pitch
LONGEST_TAIL = 0.5  # seconds of reverberation
_FRAME, _SEARCH = 640, 160  # samples: 40 ms frames that overlap by half, shifted by up to 10 ms to fit
FREQUENCY_KNOTS = np.concatenate(([0.0], np.geomspace(60, RATE / 2, 96)))  # Hz, knots of curves over frequency
_OCTAVES = np.log2(np.maximum(FREQUENCY_KNOTS, 60.0) / 1000)  # of the knots, relative to 1 kHz
_CODEC_FRAME, _BANDS = 512, 16  # samples per codec frame, bands with a common quantisation step


@dataclass(frozen=True)
class AudioAugmentConfig:
    """Strength of each variation, and the share of mixtures that have it; with augment_prob 0 nothing is varied."""

    augment_prob: float = 0.0  # share of mixtures that are varied
    pitch_octaves: float = 0.55  # octaves up or down at most
    glide_octaves: float = 0.08  # octaves of slow pitch variation
    gain_range_db: float = 5.0  # dB of slow loudness variation, up or down
    eq_db: float = 8.0  # dB up or down at most, at octave spacing; a quarter of it as tilt per octave
    bandpass_prob: float = 0.25  # share of microphones with a limited band, such as a telephone or small speaker
    notch_prob: float = 0.4  # share with a missing band
    reverb_prob: float = 0.6  # share of tracks with reverberation
    noise_db: tuple[float, float] = (2.0, 45.0)  # dB below the sources
    level_db: tuple[float, float] = (-36.0, -11.0)  # RMS of a source, dB relative to full scale
    clip_prob: float = 0.15
    codec_prob: float = 0.25
    dropout_prob: float = 0.3  # share with one or two gaps of up to 0.12 s per second


PLAIN = AudioAugmentConfig()
VARIED = AudioAugmentConfig(augment_prob=0.5)


def time_stretch(waveform: np.ndarray, tempo: float) -> np.ndarray:
    """Play a waveform `tempo` times as fast at the same pitch (WSOLA, Verhelst and Roelands 1993). 40 ms frames are
    overlap-added, each from where it best continues the one before. float32 [N] -> float32 [about N / tempo].
    """
    hop = _FRAME // 2
    count = max(1, round(len(waveform) / tempo / hop))
    padded = np.pad(waveform, (hop + _SEARCH, 2 * _FRAME + 2 * _SEARCH + hop))
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    out = np.zeros((count + 2) * hop, dtype=np.float32)
    at = _SEARCH
    for number in range(count + 1):
        if number:
            target = padded[at + hop : at + hop + _FRAME]
            around = min(round(number * hop * tempo), len(padded) - _FRAME - 2 * _SEARCH)
            fit = np.correlate(padded[around : around + _FRAME + 2 * _SEARCH], target, "valid")
            # In silence no position fits better than the nominal one.
            at = around + (int(fit.argmax()) if fit.max() > 0 else _SEARCH)
        out[number * hop : number * hop + _FRAME] += window * padded[at : at + _FRAME]
    return out[hop : hop + count * hop]


def speed_perturb(
    source: np.ndarray, samples: int, octaves: float, glide: float, rng: np.random.Generator
) -> np.ndarray:
    """Play `samples` samples of a waveform `octaves` higher and faster; the pitch varies by up to `glide` octaves.

    The source must hold `source_length(samples, octaves, glide)` samples. Interpolation is cubic through four samples.
    """
    time = np.arange(samples, dtype=np.float32) / RATE
    wander = glide * np.sin(2 * np.pi * (rng.uniform(0.3, 3.0) * time + rng.random())).astype(np.float32)
    position = np.cumsum(np.exp2(np.float32(octaves) + wander), dtype=np.float64) + 1
    first = position.astype(np.int64)
    at = (position - first).astype(np.float32)
    before, here, after, beyond = (source[first + step] for step in (-1, 0, 1, 2))
    slope, far = 0.5 * (after - before), 0.5 * (beyond - here)
    step = here - after
    return here + at * (slope + at * ((-3 * step - 2 * slope - far) + at * (2 * step + slope + far)))


def source_length(samples: int, octaves: float, glide: float) -> int:
    """Return the number of source samples that `speed_perturb` needs."""
    return int(samples * 2 ** (octaves + glide)) + 5


@lru_cache(maxsize=8)
def _knot_positions(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the knot below each bin of a spectrum of `size` samples, and how far above it the bin is."""
    position = np.interp(np.fft.rfftfreq(size, 1 / RATE), FREQUENCY_KNOTS, np.arange(len(FREQUENCY_KNOTS)))
    below = np.minimum(position.astype(np.int64), len(FREQUENCY_KNOTS) - 2)
    return below, (position - below).astype(np.float32)


def _interpolate_curve(curve: np.ndarray, size: int) -> np.ndarray:
    """Interpolate a curve from the knots to the bins, float32."""
    below, share = _knot_positions(size)
    curve = curve.astype(np.float32)
    return curve[below] + share * (curve[1:] - curve[:-1])[below]


def _equaliser(style: AudioAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random curve over frequency, as factors at the knots."""
    tilt = rng.uniform(-0.25, 0.25) * style.eq_db * _OCTAVES
    bumps = np.interp(_OCTAVES, np.arange(-4.5, 4, 1) + rng.uniform(-0.5, 0.5), rng.uniform(-1, 1, 9) * style.eq_db)
    return 10 ** (np.clip(tilt + 0.7 * bumps, -24, 24) / 20)


def mic_response(style: AudioAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the frequency response of a random device, as factors at the knots."""
    curve = _equaliser(style, rng)
    if rng.random() < style.bandpass_prob:
        low, high = 2 ** rng.uniform(-3.5, -1.2), 2 ** rng.uniform(1.2, 2.7)  # kHz
        slope = rng.uniform(6, 30)  # dB an octave
        outside = np.maximum(np.log2(low) - _OCTAVES, 0) + np.maximum(_OCTAVES - np.log2(high), 0)
        curve = curve * 10 ** (-np.minimum(slope * outside, 50) / 20)
    if rng.random() < style.notch_prob:
        middle, half = rng.uniform(-3, 2.5), rng.uniform(0.1, 0.4)
        curve = np.where(np.abs(_OCTAVES - middle) < half, 0.03, 1.0) * curve
    return curve


def apply_room_and_mic(
    track: np.ndarray, mic: np.ndarray, size: int, style: AudioAugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """Apply a random room and a microphone to a track. size: FFT length, at least LONGEST_TAIL above the track."""
    curve = mic * _equaliser(style, rng)
    response = _interpolate_curve(curve, size)
    if rng.random() < style.reverb_prob:
        length = int(rng.uniform(0.05, LONGEST_TAIL) * RATE)
        tail = rng.standard_normal(length, dtype=np.float32)
        tail *= np.exp(np.linspace(0, -6.9, length, dtype=np.float32)) / np.float32(np.sqrt(length / 14))
        tail[: int(rng.uniform(0.001, 0.015) * RATE)] = 0  # delay of the first reflection
        dull = 10 ** (-np.maximum(_OCTAVES + 1, 0) * rng.uniform(0, 6) / 20)  # walls and air absorb high frequencies
        response = response + np.fft.rfft(tail, size) * _interpolate_curve(curve * dull * rng.uniform(0.2, 1.5), size)
    return np.fft.irfft(np.fft.rfft(track, size) * response, size)[: len(track)].astype(np.float32)


def gain_envelope(samples: int, style: AudioAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Return a slowly varying gain, as factors."""
    knots = np.linspace(0, samples, 4 + samples // RATE * 3)
    curve = np.interp(np.arange(0, samples + 160, 160), knots, rng.uniform(-1, 1, len(knots)) * style.gain_range_db)
    return np.repeat((10 ** (curve / 20)).astype(np.float32), 160)[:samples]


def ambient_noise(
    samples: int, mic: np.ndarray, size: int, style: AudioAugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """Return ambient noise through a microphone: of random colour and varying loudness, with RMS 1."""
    bins = size // 2 + 1
    white = rng.standard_normal((2, bins), dtype=np.float32)
    colour = 10 ** (rng.uniform(-9, 3) * np.clip(_OCTAVES, -4, 3) / 20)
    spectrum = (white[0] + 1j * white[1]) * _interpolate_curve(mic * _equaliser(style, rng) * colour, size)
    waveform = np.fft.irfft(spectrum, size)[:samples].astype(np.float32) * gain_envelope(samples, style, rng)
    return waveform / max(float(np.sqrt(np.mean(np.square(waveform)))), 1e-9)


def degrade(waveform: np.ndarray, style: AudioAugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Simulate a recording device: it may clip, drop pieces, and code with loss."""
    if rng.random() < style.clip_prob:
        most = float(np.abs(waveform).max()) * rng.uniform(0.15, 0.7)
        waveform = np.clip(waveform, -most, most)
    if rng.random() < style.codec_prob:
        waveform = lossy_codec(waveform, rng.uniform(0.6, 2.5))
    if rng.random() < style.dropout_prob:
        waveform = waveform.copy()
        for _ in range(rng.integers(1, 3) * max(1, len(waveform) // RATE)):
            start = rng.integers(len(waveform))
            waveform[start : start + int(rng.uniform(0.02, 0.12) * RATE)] = 0
    return waveform


def lossy_codec(waveform: np.ndarray, step: float) -> np.ndarray:
    """Apply a simplified lossy codec: in each frame of 32 ms, round the spectrum in 16 bands to multiples of `step`
    times the band's RMS, so that weak components beside loud ones vanish. Same length.
    """
    hop = _CODEC_FRAME // 2
    count = -(-len(waveform) // hop) + 1
    padded = np.pad(waveform, (hop, (count + 1) * hop - hop - len(waveform)))
    window = np.sin(np.pi * (np.arange(_CODEC_FRAME, dtype=np.float32) + 0.5) / _CODEC_FRAME).astype(np.float32)
    spectrum = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, _CODEC_FRAME)[::hop] * window)[:, :-1]
    bands = spectrum.reshape(len(spectrum), _BANDS, -1)
    steps = step * np.sqrt(np.mean(np.square(np.abs(bands)), axis=2, keepdims=True)) + 1e-9
    rounded = (np.rint(bands.real / steps) + 1j * np.rint(bands.imag / steps)) * steps
    frames = np.fft.irfft(rounded.reshape(spectrum.shape), _CODEC_FRAME) * window
    out = np.zeros((len(frames) + 1, hop), dtype=np.float32)
    out[:-1] += frames[:, :hop]
    out[1:] += frames[:, hop:]
    return out.reshape(-1)[hop : hop + len(waveform)]
