"""Recordings as waveforms: decoding, levels, speeds, loops, noise and augmentations."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from avsbench_fixtures import write_wav

from icf_avs.errors import UserError
from icf_avs.media.audio_file import read_audio
from icf_avs.synthetic import audio_augment as augment
from icf_avs.synthetic import sounds
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.scene_sampler import TRAIN, sample_scene
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.types import RATE


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def loudest_hertz(wave: np.ndarray) -> float:
    return np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4 * RATE))) / 4


def longest_pause(sounding: np.ndarray) -> int:
    return np.diff(np.flatnonzero(np.concatenate(([True], sounding, [True])))).max()


def test_read_audio_decodes_and_resamples(tmp_path: Path) -> None:
    left = np.round(16_000 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)).astype(np.int16)
    write_wav(tmp_path / "stereo.wav", np.stack([left, left], axis=1), 44_100, 2)
    wave, rate = read_audio(tmp_path / "stereo.wav", RATE)
    assert rate == 44_100 and wave.dtype == np.float32 and abs(len(wave) - RATE) < 20
    assert loudest_hertz(wave) == 440
    np.testing.assert_array_equal(read_audio((tmp_path / "stereo.wav").read_bytes(), RATE)[0], wave)
    (tmp_path / "x.ogg").write_bytes(b"nothing")
    for name in ("x", "none"):
        with pytest.raises(UserError, match=rf"{name}\.ogg"):
            read_audio(tmp_path / f"{name}.ogg", RATE)


def test_prepare_trims_and_levels() -> None:
    rest = np.zeros(RATE, np.float32)
    wave = sounds.trim_and_normalize(np.concatenate([rest, 0.01 * tone(500, 1), rest, 0.01 * tone(700, 1), rest]))
    assert abs(len(wave) / RATE - 2.25) < 0.03  # the pause of a second is cut to a quarter of one
    assert np.sqrt(np.mean(np.square(wave[: RATE // 2]))) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="silent"):
        sounds.trim_and_normalize(rest)


def test_recordings_and_loops_have_no_long_pause(catalog: Catalog, bank: SoundBank) -> None:
    for kind in catalog.classes:
        for reference in bank.references(kind.name):
            wave = bank.speed_variant(reference, 4)
            assert 0.1 < len(wave) / RATE < 11 and np.isfinite(wave).all(), reference
            rms = sounds.frame_rms(wave)
            assert longest_pause(rms > rms.max() * 10 ** (-36 / 20)) <= 28, reference  # frames of 10 ms
    track = bank.loop_recording("hammer", 5 * RATE, np.random.default_rng(0))
    assert track.shape == (5 * RATE,) and longest_pause(sounds.frame_rms(track) > 1e-4) <= 30
    worker = pickle.loads(pickle.dumps(bank))
    np.testing.assert_array_equal(track, worker.loop_recording("hammer", 5 * RATE, np.random.default_rng(0)))
    assert not set(SoundBank(catalog, "cross").references("cow")) & set(bank.references("cow"))


@pytest.mark.parametrize("tempo", augment.TEMPI)
def test_time_stretch_changes_length_and_not_pitch(tempo: float) -> None:
    played = augment.time_stretch(tone(700, 1.0), tempo)
    middle = played[RATE // 10 : -RATE // 10]
    assert len(played) == pytest.approx(RATE / tempo, abs=320) and loudest_hertz(middle) == pytest.approx(700, abs=8)
    assert np.std(middle) == pytest.approx(2**-0.5, rel=0.1)
    wave = np.zeros(RATE, np.float32)
    wave[8_000:8_800] = tone(1000, 0.05)
    assert np.argmax(sounds.frame_rms(augment.time_stretch(wave, tempo))) * 160 == pytest.approx(8_400 / tempo, abs=700)


@pytest.mark.parametrize("octaves", [-0.6, 0.0, 0.6])
def test_speed_changes_the_pitch(octaves: float) -> None:
    speed, source, rng = 2**octaves, tone(800, 2.0), np.random.default_rng(0)
    fast = sounds.resample(tone(800, 1.0), speed)
    assert len(fast) == round(RATE / speed)
    played = augment.speed_perturb(source[: augment.source_length(RATE, octaves, 0.0)], RATE, octaves, 0.0, rng)
    assert played.shape == (RATE,)
    for wave in (fast, played):
        assert loudest_hertz(wave) == pytest.approx(800 * speed, abs=2)
        assert np.std(wave) == pytest.approx(2**-0.5, rel=0.02)
    wandering = augment.speed_perturb(source[: augment.source_length(RATE, octaves, 0.2)], RATE, octaves, 0.2, rng)
    pitches = [loudest_hertz(wandering[at : at + 1600]) for at in range(0, RATE - 1600, 1600)]
    assert 800 * speed * 0.02 < np.ptp(pitches) < 800 * speed * 0.35


def test_audio_is_augmented_only_on_request(catalog: Catalog, bank: SoundBank) -> None:
    style, always = replace(TRAIN, num_sources=(1.0,), silent=0.0), replace(augment.VARIED, augment_prob=1.0)
    for index in range(6):
        scene = sample_scene(catalog, "train", index, 0, style, 1)
        plain, active = sounds.render_audio(scene, bank, 3)
        np.testing.assert_array_equal(plain, sounds.render_audio(scene, bank, 3, augment.PLAIN)[0])
        varied, also = sounds.render_audio(scene, bank, 3, always)
        assert varied.dtype == np.float32 and np.isfinite(varied).all() and np.abs(varied).max() <= 0.991
        assert np.std(varied - plain) > 0.1 * np.std(plain)
        np.testing.assert_array_equal(varied, sounds.render_audio(scene, bank, 3, always)[0])
        assert not np.array_equal(varied, sounds.render_audio(scene, bank, 4, always)[0])
        np.testing.assert_array_equal(active, also)  # the activity is the same
