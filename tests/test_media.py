"""Frames and audio are read at the right time; broken files raise a one-line error.

Downmix to mono: exactly the mean, unless channels cancel each other.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from avsbench_fixtures import write_wav
from clip_maker import HEIGHT, RATE, WIDTH, click, make_clip, number_in, overwrite, tone
from scipy.signal import butter, sosfilt

from icf_avs.datasets.image_io import open_image, read_mask
from icf_avs.datasets.log_mel import read_log_mel
from icf_avs.datasets.video_clip import read_video_audio, read_waveform
from icf_avs.errors import UserError
from icf_avs.media.audio_file import to_mono
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe, read_frames

MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}


def numbers_at(path, times):
    return [number_in(image) for _, image in read_frames(path, times)]


def click_at(source):
    """Time in seconds of the loudest sample in the first two seconds."""
    return np.abs(AudioWindows(source).read(0, 32_000)).argmax() / 16_000


def test_frames_are_those_shown_at_the_times_asked_for(tmp_path):
    info = probe(make_clip(tmp_path / "a.mp4", sound=tone(2)))
    assert (info.width, info.height, info.has_audio, info.audio_rate) == (WIDTH, HEIGHT, True, RATE)
    assert (info.duration, info.frame_rate) == (pytest.approx(2.0, abs=0.05), pytest.approx(25, rel=0.03))
    assert numbers_at(info, [0.01, 0.51, 1.009, 1.01, 1.51, 1.98, 5.0]) == [0, 12, 25, 25, 37, 49, 49]
    path = make_clip(tmp_path / "vfr.mp4", times=[0.0, 0.1, 0.15, 0.9, 1.0, 2.5], options={"bf": "2"})
    asked = [-1.0, 0.0, 0.0999, 0.1, 0.149, 0.5, 0.8999, 0.9, 2.4, 2.5, 9.0]
    assert numbers_at(path, asked) == [0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5]
    info = probe(make_clip(tmp_path / "raw.h264"))  # without time stamps
    assert info.duration == pytest.approx(2.0) and numbers_at(info, [0.0, 0.41, 1.99]) == [0, 10, 49]


@pytest.mark.parametrize("rate", [8_000, 11_025, 48_000])
def test_audio_windows_hold_the_right_samples(tmp_path, rate):
    path = make_clip(tmp_path / "a.mkv", sound_codec="pcm_s16le", sound=click(2, 1.0, rate, 2), sound_rate=rate)
    windows = AudioWindows(path)
    before, around, after = (windows.read(start, 1_600) for start in (-800, 15_200, 31_200))
    assert not before.any() and not after[800:].any()
    assert np.flatnonzero(np.abs(around) > 0.3)[0] == pytest.approx(800, abs=8)  # half a millisecond
    assert np.abs(around).max() == pytest.approx(0.9, abs=0.1)


def raises(path, words):
    with pytest.raises(UserError, match=words) as caught:
        info = probe(path)
        list(read_frames(info, [0.0, 1e9]))
        AudioWindows(info)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_a_video_gives_a_one_line_error(tmp_path):
    raises(tmp_path / "none.mp4", "no such file")
    raises(tmp_path, "is a folder")
    unreadable = "not a video|cannot be read|can be decoded"
    contents = b"", b"this is not a video\n" * 50, os.urandom(50_000), b"#EXTM3U\n/etc/passwd"
    for content, words in zip(contents, ("0 bytes", "not a video", unreadable, unreadable), strict=True):
        (tmp_path / "a.mp4").write_bytes(content)
        raises(tmp_path / "a.mp4", words)
    write_wav(tmp_path / "a.wav", np.zeros(RATE, np.int16), RATE)
    raises(tmp_path / "a.wav", "no video stream")
    raises(make_clip(tmp_path / "silent.mp4", seconds=0.4), "has no sound")


@pytest.mark.parametrize("share", [0.2, 0.9])
@pytest.mark.parametrize("name", ["index_last.mp4", "index_first.mp4", "a.mkv", "a.avi"])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    codec = {"sound_codec": "mp3", **MJPEG} if name.endswith("avi") else {}
    movie = {"movflags": "faststart"} if name == "index_first.mp4" else {}
    path = make_clip(tmp_path / name, seconds=4, sound=tone(4), movie_options=movie, **codec)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    raises(path, "cut short")


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_damaged_frame_is_replaced_by_the_previous_one(tmp_path, name):
    path = make_clip(tmp_path / name, sound=tone(2), options={"bf": "0", "g": "5", "sc_threshold": "0"})
    info = probe(overwrite(path, "video", [29, 34]))
    assert numbers_at(info, [1.14, 1.18, 1.22, 1.38, 1.98]) == [28, 28, 30, 33, 49]
    assert info.repaired.document() == {"damaged_pictures": 2}


@pytest.mark.parametrize("number", [47, 48, 49])
def test_frames_after_a_damaged_one_near_the_end_are_shown(tmp_path, number):
    """Decoder threads delay the last frames."""
    path = overwrite(make_clip(tmp_path / "a.mp4", sound=tone(2), **MJPEG), "video", [number])
    assert numbers_at(path, [n / 25 + 0.02 for n in (46, 47, 48, 49)]) == [n - (n == number) for n in (46, 47, 48, 49)]


def test_a_damaged_first_frame_does_not_move_the_clock(tmp_path):
    path = make_clip(tmp_path / "a.mp4", sound=click(2, at=1.0), options={"g": "10", "bf": "0"})
    info = probe(overwrite(path, "video", [0]))
    assert numbers_at(info, [0.1, 0.42, 1.02]) == [10, 10, 25] and click_at(info) == pytest.approx(1.0, abs=0.03)
    assert info.repaired.document()["missing_beginning"] == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("codec", ["aac", "flac", "ac3"])
def test_a_damaged_audio_packet_is_silence_and_shifts_nothing(tmp_path, codec):
    path = make_clip(tmp_path / "a.mkv", sound=click(2, at=1.5) + tone(2) / 10, sound_codec=codec)
    info = probe(overwrite(path, "audio", [10, 11, 14], 255))
    assert click_at(info) == pytest.approx(1.5, abs=0.005) and info.repaired.document() == {"damaged_sound": 3}


def test_mostly_damaged_streams_are_refused(tmp_path):
    path = make_clip(tmp_path / "a.mp4", sound=tone(2), **MJPEG)
    for kind, word, numbers, read in (
        ("video", "video", range(10, 36), lambda info: numbers_at(info, [1.9])),
        ("audio", "sound", range(10, 80), click_at),
    ):
        info = probe(overwrite(path, kind, numbers))
        with pytest.raises(UserError, match=f"more than half of its {word} is damaged"):
            read(info)


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    raises(tmp_path / "pipe.mp4", "save what it gives as a file first")
    raises(Path("/dev/null"), "is a pipe or a device")
    for read in (read_waveform, open_image, lambda path: read_mask(path, "S4"), lambda path: read_log_mel(path, 1)):
        with pytest.raises(UserError, match="is a pipe or a device, which is read only once"):
            read(tmp_path / "pipe.mp4")


MONO = 16_000


def noise(seed: int, seconds: float = 4.0, low: float = 100, high: float = 6_000) -> np.ndarray:
    """Band-limited noise of varying loudness: float32 [n], RMS near 0.1."""
    white = np.random.default_rng(seed).standard_normal(round(seconds * MONO))
    band = sosfilt(butter(6, (low, high), "bandpass", fs=MONO, output="sos"), white)
    swell = 1 + 0.5 * np.sin(2 * np.pi * 0.7 * np.arange(len(band)) / MONO + seed)
    return (0.1 * band / band.std() * swell).astype(np.float32)


def mixed(*channels: np.ndarray, size: int = 1_000) -> np.ndarray:
    sound = np.stack(channels)
    parts = [*to_mono((sound[:, at : at + size] for at in range(0, sound.shape[1], size)), MONO)]
    assert all(part.dtype == np.float32 for part in parts)
    return np.concatenate(parts)


def decibels(error: np.ndarray, of: np.ndarray) -> float:
    return 10 * np.log10(np.square(error).sum() / np.square(of).sum() + 1e-20)


A, B, C = noise(1), noise(2), noise(3)
QUIET = 0.05 * noise(4)
ORDINARY = {
    "one side": (A, 0 * A), "both sides": (A, A), "wide": (A, B), "a little out of phase": (A, B - 0.5 * A),
    "delayed": (A, np.roll(A, 9)), "7.1": (A, A, C, QUIET, B, B, QUIET, A), "opposite offsets": (A + 0.01, B - 0.01),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("size", [160, 100_000])
def test_ordinary_audio_is_exactly_the_mean(name, size):
    sound = np.stack(ORDINARY[name])[:, :63_999]
    np.testing.assert_array_equal(mixed(*sound, size=size), sound.mean(axis=0))


HIGH, LOW = noise(5, low=2_000, high=5_000), noise(6, low=150, high=1_000)
CANCELLED = {  # channels, expected mono
    "opposite": ((A, -A), A), "opposite, one softer": ((A, -0.7 * A), A),
    "after a codec": ((A + 0.01 * B, -A + 0.01 * C), A), "one band": ((LOW + HIGH, LOW - HIGH), LOW + HIGH),
    "one soft band": ((LOW + 0.1 * HIGH, LOW - 0.1 * HIGH), LOW + 0.1 * HIGH),
    "5.1, front": ((A, -A, QUIET, 0 * A, 0 * A, 0 * A), (A + QUIET) / 5),
    "5.1, front and back": ((A, -A, 0 * A, 0 * A, B, -B), (A + B) / 4),
}  # fmt: skip


@pytest.mark.parametrize("name", CANCELLED)
@pytest.mark.parametrize("size", [160, 100_000])
def test_cancelling_channels_stay_audible(name, size):
    channels, wanted = CANCELLED[name]
    assert decibels(mixed(*channels, size=size) - wanted, wanted) < -25


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mp4", "aac"), ("b.mkv", "libopus")])
def test_files_with_cancelling_channels_stay_audible(tmp_path, name, codec):
    seconds = np.arange(2 * 48_000) / 48_000
    chirp = (0.3 * np.sin(2 * np.pi * (400 + 300 * seconds) * seconds)).astype(np.float32)
    infos = [
        probe(make_clip(tmp_path / f"{sign}{name}", sound=np.stack([chirp, sign * chirp]), sound_codec=codec))
        for sign in (1, -1)
    ]
    alike, opposite = (AudioWindows(info).read(0, 2 * MONO) for info in infos)
    assert decibels(opposite - alike, alike) < -20
    assert infos[1].repaired.document() == {"cancelled_channels": pytest.approx(2, abs=0.1)}  # no block counts twice
    assert not infos[0].repaired.document()
    np.testing.assert_array_equal(read_video_audio(infos[1].path)[: 2 * MONO], opposite)


def test_a_truncated_last_packet_is_reported(tmp_path):
    path = make_clip(tmp_path / "a.mp4", seconds=4, sound=tone(4), movie_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-60])
    assert probe(path).repaired.document()["incomplete_packets"] == 1
