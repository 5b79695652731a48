"""Downmix to mono: exactly the mean, unless channels cancel each other."""

from __future__ import annotations

import numpy as np
import pytest
from clip_maker import make_clip
from scipy.signal import butter, sosfilt

from icf_avs.datasets.video_clip import read_video_audio, read_waveform
from icf_avs.media.audio_file import to_mono
from icf_avs.media.audio_windows import AudioWindows, audio_blocks
from icf_avs.media.video_reader import probe

RATE = 16_000


def noise(seed: int, seconds: float = 4.0, low: float = 100, high: float = 6_000) -> np.ndarray:
    """Band-limited noise of varying loudness: float32 [n], RMS near 0.1."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    band = sosfilt(butter(6, (low, high), "bandpass", fs=RATE, output="sos"), white)
    swell = 1 + 0.5 * np.sin(2 * np.pi * 0.7 * np.arange(len(band)) / RATE + seed)
    return (0.1 * band / band.std() * swell).astype(np.float32)


def mixed(*channels: np.ndarray, size: int = 1_000) -> np.ndarray:
    sound = np.stack(channels)
    parts = [*to_mono((sound[:, at : at + size] for at in range(0, sound.shape[1], size)), RATE)]
    assert all(part.dtype == np.float32 for part in parts)
    return np.concatenate(parts)


def decibels(error: np.ndarray, of: np.ndarray) -> float:
    return 10 * np.log10(np.square(error).sum() / np.square(of).sum() + 1e-20)


A, B, C = noise(1), noise(2), noise(3)
QUIET = 0.05 * noise(4)
ORDINARY = {
    "one side": (A, 0 * A), "both sides": (A, A), "wide": (A, B), "louder left": (A, 0.1 * A),
    "a little out of phase": (A, B - 0.5 * A), "faint opposite crosstalk": (A, -0.05 * A),
    "delayed": (A, np.roll(A, 9)), "middle and side": (A, 0.3 * B), "5.1": (A, B, C, 0.1 * A, B, -0.2 * C),
    "7.1": (A, A, C, QUIET, B, B, QUIET, A), "silence": (0 * A, 0 * A), "opposite offsets": (A + 0.01, B - 0.01),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("size", [160, 8_000, 100_000])
def test_ordinary_audio_is_exactly_the_mean(name, size):
    np.testing.assert_array_equal(mixed(*ORDINARY[name], size=size), np.stack(ORDINARY[name]).mean(axis=0))


@pytest.mark.parametrize("length", [7_999, 8_000, 8_001, 24_001])
def test_no_sample_is_lost(length):
    np.testing.assert_array_equal(mixed(A[:length], A[:length]), A[:length])
    assert mixed(A[:1], -A[:1]).shape == (1,)
    assert decibels(mixed(A[:length], -A[:length]) - A[:length], A[:length]) < -30


HIGH, LOW = noise(5, low=2_000, high=5_000), noise(6, low=150, high=1_000)
CANCELLED = {  # channels, expected mono
    "opposite": ((A, -A), A),
    "opposite, one softer": ((A, -0.7 * A), A),
    "with a little in the middle": ((A + QUIET, -A + QUIET), A + QUIET),
    "after a codec": ((A + 0.01 * B, -A + 0.01 * C), A),
    "one band": ((LOW + HIGH, LOW - HIGH), LOW + HIGH),
    "one soft band": ((LOW + 0.1 * HIGH, LOW - 0.1 * HIGH), LOW + 0.1 * HIGH),
    "5.1, front": ((A, -A, QUIET, 0 * A, 0 * A, 0 * A), (A + QUIET) / 5),
    "5.1, front and back": ((A, -A, 0 * A, 0 * A, B, -B), (A + B) / 4),
}


@pytest.mark.parametrize("name", CANCELLED)
@pytest.mark.parametrize("size", [160, 100_000])
def test_cancelling_channels_stay_audible(name, size):
    channels, wanted = CANCELLED[name]
    assert decibels(mixed(*channels, size=size) - wanted, wanted) < -25


def test_channels_that_cancel_for_a_while():
    """No click where it begins and ends; a second away, the result is exactly the mean."""
    opposite = (np.arange(len(A)) > 2 * RATE) & (np.arange(len(A)) < 3 * RATE)
    right = np.where(opposite, -A, A)
    heard = mixed(A, right)
    assert decibels((heard - A)[2 * RATE : 3 * RATE], A[2 * RATE : 3 * RATE]) < -3
    middle = slice(round(2.4 * RATE), round(2.6 * RATE))
    assert decibels((heard - A)[middle], A[middle]) < -20
    np.testing.assert_array_equal(heard[:RATE], A[:RATE])
    steps = np.abs(np.diff(heard - np.stack([A, right]).mean(axis=0)))
    assert steps.max() < 1.2 * np.abs(np.diff(A)).max()


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mp4", "aac"), ("b.mkv", "libopus")])
def test_files_with_cancelling_channels_stay_audible(tmp_path, name, codec):
    seconds = np.arange(2 * 48_000) / 48_000
    chirp = (0.3 * np.sin(2 * np.pi * (400 + 300 * seconds) * seconds)).astype(np.float32)
    for number, sides in enumerate([(chirp, chirp), (chirp, -chirp)]):
        make_clip(tmp_path / f"{number}{name}", sound=np.stack(sides), sound_codec=codec)
    alike, opposite = (AudioWindows(tmp_path / f"{number}{name}").read(0, 2 * RATE) for number in (0, 1))
    assert decibels(opposite - alike, alike) < -20
    info = probe(tmp_path / f"1{name}")
    AudioWindows(info).read(0, 2 * RATE)
    assert info.repaired.document() == {"cancelled_channels": pytest.approx(2, abs=0.1)}  # no block counts twice
    assert "cancel each other" in info.repaired.lines()[0]
    assert not probe(tmp_path / f"0{name}").repaired.document()
    np.testing.assert_array_equal(read_video_audio(tmp_path / f"1{name}")[: 2 * RATE], opposite)
    if codec == "pcm_s16le":
        assert decibels(read_waveform(tmp_path / f"1{name}")[: 2 * RATE] - opposite, opposite) < -25


def test_unnamed_channels_do_not_cancel_in_stereo(tmp_path):
    sound = np.tile(A[: 3 * RATE], (9, 1))
    sound[1::2] *= -1
    path = make_clip(tmp_path / "a.nut", seconds=3, sound=sound, sound_rate=RATE, sound_codec="pcm_s16le")
    stereo = np.concatenate([*audio_blocks(probe(path), RATE, "stereo")], axis=1)
    assert stereo.shape[0] == 2 and decibels(stereo[0, : 2 * RATE] - A[: 2 * RATE], A[: 2 * RATE]) < -25
