"""Recordings as waves: decoding, levels, speeds, loops and noises."""

from __future__ import annotations

import pickle
import wave as wav_format
from pathlib import Path

import numpy as np
import pytest

from icf_avs.errors import UserError
from icf_avs.stamps.catalog import Catalog
from icf_avs.stamps.sounds import NOISES, RATE, SPEEDS, SoundBank, coloured, decode, frame_rms, noise, prepare, resample


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def test_decode_mixes_down_and_resamples(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    with wav_format.open(str(path), "wb") as file:
        file.setparams((2, 2, 44_100, 0, "NONE", ""))
        file.writeframes((np.stack([left, left], axis=1) * 32767).astype("<i2").tobytes())
    wave = decode(path)
    assert wave.dtype == np.float32 and abs(len(wave) - RATE) < 20
    assert np.argmax(np.abs(np.fft.rfft(wave[:RATE], RATE))) == 440
    np.testing.assert_array_equal(decode(path.read_bytes()), wave)


def test_what_is_no_sound_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "x.ogg").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x\.ogg"):
        decode(tmp_path / "x.ogg")
    with pytest.raises(UserError, match=r"none\.ogg"):
        decode(tmp_path / "none.ogg")


def test_prepare_trims_and_levels() -> None:
    rest = np.zeros(RATE, np.float32)
    wave = prepare(np.concatenate([rest, 0.01 * tone(500, 1), rest, 0.01 * tone(700, 1), rest]))
    assert abs(len(wave) / RATE - 2.25) < 0.03  # the pause of a second is shortened to a quarter
    assert np.sqrt(np.mean(np.square(wave[: RATE // 2]))) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="silent"):
        prepare(rest)


@pytest.mark.parametrize("speed", SPEEDS)
def test_resample_changes_pitch_and_length(speed: float) -> None:
    fast = resample(tone(1000, 1.0), speed)
    assert len(fast) == round(RATE / speed)
    peak = np.argmax(np.abs(np.fft.rfft(fast * np.hanning(len(fast)), 4 * RATE))) / 4
    assert peak == pytest.approx(1000 * speed, abs=3)
    assert np.std(fast) == pytest.approx(2**-0.5, rel=0.02)


def test_every_training_recording_sounds_all_the_time(catalog: Catalog, bank: SoundBank) -> None:
    for kind in catalog.kinds:
        for reference in bank.references(kind.name):
            wave = bank.variant(reference, 4)
            assert 0.1 < len(wave) / RATE < 11 and np.isfinite(wave).all(), reference
            heard = frame_rms(wave) > frame_rms(wave).max() * 10 ** (-36 / 20)
            pauses = np.diff(np.flatnonzero(np.concatenate(([True], heard, [True]))))
            assert pauses.max() <= 28, reference  # frames of 10 ms


def test_loops_have_no_long_gap(bank: SoundBank) -> None:
    track = bank.looped("hammer", 5 * RATE, np.random.default_rng(0))
    assert track.shape == (5 * RATE,)
    silent = np.diff(np.flatnonzero(np.concatenate(([True], frame_rms(track) > 1e-4, [True]))))
    assert silent.max() <= 30
    np.testing.assert_array_equal(track, bank.looped("hammer", 5 * RATE, np.random.default_rng(0)))


def test_the_banks_have_different_recordings(catalog: Catalog, bank: SoundBank) -> None:
    other = SoundBank(catalog, "cross")
    assert not set(other.references("cow")) & set(bank.references("cow"))
    assert other.looped("cow", RATE, np.random.default_rng(0)).any()
    with pytest.raises(ValueError, match="zebra"):
        other.looped("zebra", RATE, np.random.default_rng(0))
    with pytest.raises(ValueError, match="both"):
        SoundBank(catalog, "both")


def test_a_bank_travels_to_a_worker(bank: SoundBank) -> None:
    copy = pickle.loads(pickle.dumps(bank))
    a, b = (x.looped("cow", RATE, np.random.default_rng(1)) for x in (bank, copy))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_its_colour(kind: str) -> None:
    wave = noise(kind, 4 * RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
    bands = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (250, 2000)]
    octaves = 3
    slope = 10 * np.log10(bands[1] / bands[0]) / octaves
    assert slope == pytest.approx({"white": 0, "pink": -3, "brown": -6}[kind], abs=0.7)
    assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(1, rel=1e-3)


def test_colouring_keeps_length_and_is_gentle() -> None:
    dry = tone(1000, 1.0)
    for seed in range(5):
        wet = coloured(dry, np.random.default_rng(seed), reverb=bool(seed % 2))
        assert wet.shape == dry.shape and np.isfinite(wet).all()
        assert abs(20 * np.log10(np.std(wet) / np.std(dry))) < 14
