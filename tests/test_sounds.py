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
from icf_avs.synthetic.audio_augment import (
    FREQUENCY_KNOTS,
    PLAIN,
    TEMPI,
    VARIED,
    AudioAugmentConfig,
    ambient_noise,
    apply_room_and_mic,
    degrade,
    lossy_codec,
    source_length,
    speed_perturb,
    time_stretch,
)
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.scene_sampler import TRAIN, sample_scene
from icf_avs.synthetic.sounds import (
    NOISES,
    SPEEDS,
    SoundBank,
    frame_rms,
    noise,
    render_audio,
    resample,
    tilt_and_reverb,
    trim_and_normalize,
)
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
    assert np.argmax(np.abs(np.fft.rfft(wave[:RATE], RATE))) == 440
    np.testing.assert_array_equal(read_audio((tmp_path / "stereo.wav").read_bytes(), RATE)[0], wave)
    (tmp_path / "x.ogg").write_bytes(b"nothing")
    for name in ("x", "none"):
        with pytest.raises(UserError, match=rf"{name}\.ogg"):
            read_audio(tmp_path / f"{name}.ogg", RATE)


def test_prepare_trims_and_levels() -> None:
    rest = np.zeros(RATE, np.float32)
    wave = trim_and_normalize(np.concatenate([rest, 0.01 * tone(500, 1), rest, 0.01 * tone(700, 1), rest]))
    assert abs(len(wave) / RATE - 2.25) < 0.03  # the pause of a second is cut to a quarter of one
    assert np.sqrt(np.mean(np.square(wave[: RATE // 2]))) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="silent"):
        trim_and_normalize(rest)


@pytest.mark.parametrize("speed", SPEEDS)
def test_resample_changes_pitch_and_length(speed: float) -> None:
    fast = resample(tone(1000, 1.0), speed)
    assert len(fast) == round(RATE / speed) and loudest_hertz(fast) == pytest.approx(1000 * speed, abs=3)
    assert np.std(fast) == pytest.approx(2**-0.5, rel=0.02)


def test_recordings_and_loops_have_no_long_pause(catalog: Catalog, bank: SoundBank) -> None:
    for kind in catalog.classes:
        for reference in bank.references(kind.name):
            wave = bank.speed_variant(reference, 4)
            assert 0.1 < len(wave) / RATE < 11 and np.isfinite(wave).all(), reference
            rms = frame_rms(wave)
            assert longest_pause(rms > rms.max() * 10 ** (-36 / 20)) <= 28, reference  # frames of 10 ms
    track = bank.loop_recording("hammer", 5 * RATE, np.random.default_rng(0))
    assert track.shape == (5 * RATE,) and longest_pause(frame_rms(track) > 1e-4) <= 30
    for again in (bank, pickle.loads(pickle.dumps(bank))):  # also in a worker
        np.testing.assert_array_equal(track, again.loop_recording("hammer", 5 * RATE, np.random.default_rng(0)))


def test_the_banks_have_different_recordings(catalog: Catalog, bank: SoundBank) -> None:
    other = SoundBank(catalog, "cross")
    assert not set(other.references("cow")) & set(bank.references("cow"))
    assert other.loop_recording("cow", RATE, np.random.default_rng(0)).any()
    with pytest.raises(ValueError, match="zebra"):
        other.loop_recording("zebra", RATE, np.random.default_rng(0))
    with pytest.raises(ValueError, match="both"):
        SoundBank(catalog, "both")


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_its_colour(kind: str) -> None:
    wave = noise(kind, 4 * RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
    bands = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (250, 2000)]
    slope = 10 * np.log10(bands[1] / bands[0]) / 3  # octaves
    assert slope == pytest.approx({"white": 0, "pink": -3, "brown": -6}[kind], abs=0.7)
    assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(1, rel=1e-3)


def test_tilt_and_reverb_keep_length_and_level() -> None:
    dry = tone(1000, 1.0)
    for seed in range(5):
        wet = tilt_and_reverb(dry, np.random.default_rng(seed), reverb=bool(seed % 2))
        assert wet.shape == dry.shape and np.isfinite(wet).all()
        assert abs(20 * np.log10(np.std(wet) / np.std(dry))) < 14


@pytest.mark.parametrize("tempo", TEMPI)
def test_time_stretch_changes_length_and_not_pitch(tempo: float) -> None:
    played = time_stretch(tone(700, 1.0), tempo)
    middle = played[RATE // 10 : -RATE // 10]
    assert len(played) == pytest.approx(RATE / tempo, abs=320) and loudest_hertz(middle) == pytest.approx(700, abs=8)
    assert np.std(middle) == pytest.approx(2**-0.5, rel=0.1)
    wave = np.zeros(RATE, np.float32)
    wave[8_000:8_800] = tone(1000, 0.05)
    assert np.argmax(frame_rms(time_stretch(wave, tempo))) * 160 == pytest.approx(8_400 / tempo, abs=700)
    assert not time_stretch(np.zeros(5_000, np.float32), tempo).any()
    assert np.isfinite(time_stretch(tone(500, 0.01), tempo)).all()


@pytest.mark.parametrize("octaves", [-0.6, 0.0, 0.6])
def test_speed_perturb_changes_the_pitch(octaves: float) -> None:
    rng = np.random.default_rng(0)
    source = tone(800, 2.0)
    played = speed_perturb(source[: source_length(RATE, octaves, 0.0)], RATE, octaves, 0.0, rng)
    assert played.shape == (RATE,) and loudest_hertz(played) == pytest.approx(800 * 2**octaves, abs=1)
    assert np.std(played) == pytest.approx(2**-0.5, rel=0.02)
    wandering = speed_perturb(source[: source_length(RATE, octaves, 0.2)], RATE, octaves, 0.2, rng)
    pitches = [loudest_hertz(wandering[at : at + 1600]) for at in range(0, RATE - 1600, 1600)]
    assert 800 * 2**octaves * 0.02 < np.ptp(pitches) < 800 * 2**octaves * 0.35


def test_the_microphone_filters_tracks_and_noise() -> None:
    """With a telephone band-pass, neither a track nor the noise has power outside the band."""
    style = replace(VARIED, reverb_prob=1.0)
    mic = np.where((FREQUENCY_KNOTS > 400) & (FREQUENCY_KNOTS < 3000), 1.0, 1e-4)
    clicks = np.zeros(RATE, np.float32)
    clicks[::2_000] = 1
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for wave in (apply_room_and_mic(clicks, mic, 32_768, style, rng), ambient_noise(RATE, mic, 32_768, style, rng)):
            assert wave.shape == (RATE,) and np.isfinite(wave).all()
            power = np.abs(np.fft.rfft(wave)) ** 2
            assert power[500:2_800].mean() > 30 * max(power[:300].mean(), power[3_300:].mean())
    assert np.std(ambient_noise(RATE, mic, 32_768, VARIED, rng)) == pytest.approx(1, rel=1e-3)


def test_reverberation_outlasts_the_sound() -> None:
    burst = np.zeros(RATE, np.float32)
    burst[:800] = tone(1000, 0.05)
    tails = []
    for room in (0.0, 1.0):
        style = AudioAugmentConfig(augment_prob=1.0, reverb_prob=room, eq_db=0.0, bandpass_prob=0.0, notch_prob=0.0)
        wet = [apply_room_and_mic(burst, np.ones(97), 32_768, style, np.random.default_rng(seed)) for seed in range(6)]
        tails.append(np.median([np.std(wave[1_600:4_000]) for wave in wet]))
    assert tails[0] < 1e-3 < 10 * tails[0] + 1e-3 < tails[1]


def test_a_codec_drops_weak_components() -> None:
    wave = tone(1000, 1.0) + 0.02 * tone(1150, 1.0)
    for step in (1e-3, 1.0):
        out = lossy_codec(wave, step)
        assert out.shape == wave.shape
        spectrum = np.abs(np.fft.rfft(out[:RATE] * np.hanning(RATE), RATE))
        assert spectrum[1000] == pytest.approx(4_000, rel=0.15)
        assert (spectrum[1150] < 40) == (step == 1.0)
    np.testing.assert_allclose(lossy_codec(wave, 1e-4), wave, atol=1e-3)
    assert not lossy_codec(np.zeros(1_000, np.float32), 1.0).any()


def test_degrade_clips_and_drops_pieces() -> None:
    wave = tone(300, 1.0)
    clipped, broken = (
        degrade(wave, AudioAugmentConfig(clip_prob=clip, codec_prob=0, dropout_prob=1 - clip), np.random.default_rng(0))
        for clip in (1, 0)
    )
    assert np.mean(np.abs(clipped) > 0.999 * np.abs(clipped).max()) > 0.3
    assert 0.01 < np.mean(frame_rms(broken) == 0) < 0.3
    degrade(wave, VARIED, np.random.default_rng(0))
    np.testing.assert_array_equal(wave, tone(300, 1.0))  # the input is unchanged


def test_audio_is_augmented_only_on_request(catalog: Catalog, bank: SoundBank) -> None:
    style, always = replace(TRAIN, num_sources=(1.0,), silent=0.0), replace(VARIED, augment_prob=1.0)
    scenes = [sample_scene(catalog, "train", index, 0, style, 1) for index in range(6)]
    for scene in scenes:
        plain, active = render_audio(scene, bank, 3)
        np.testing.assert_array_equal(plain, render_audio(scene, bank, 3, PLAIN)[0])
        varied, also = render_audio(scene, bank, 3, always)
        assert varied.dtype == np.float32 and np.isfinite(varied).all() and np.abs(varied).max() <= 0.991
        assert np.std(varied - plain) > 0.1 * np.std(plain)
        np.testing.assert_array_equal(varied, render_audio(scene, bank, 3, always)[0])
        np.testing.assert_array_equal(active, also)  # the activity is the same
    mixtures = [render_audio(scenes[0], bank, number, VARIED)[0] for number in range(40)]
    assert len({wave.tobytes() for wave in mixtures}) == 40
