"""Frames and audio of files made with PyAV are read at the right time; broken files raise a one-line error."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest
from clip_maker import HEIGHT, RATE, WIDTH, click, make_clip, number_in, picture, tone

from icf_avs.datasets.image_io import open_image, read_mask
from icf_avs.datasets.log_mel import read_log_mel
from icf_avs.datasets.video_clip import read_waveform
from icf_avs.errors import UserError
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe, read_frames

MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p"}


def numbers_at(path, times):
    return [number_in(image) for _, image in read_frames(path, times)]


def click_at(source):
    """Time in seconds of the loudest sample in the first two seconds."""
    return np.abs(AudioWindows(source).read(0, 32_000)).argmax() / 16_000


@pytest.mark.parametrize(
    ("name", "settings"),
    [("a.mp4", {}), ("a.mov", {"sound_codec": "pcm_s16le"}), ("a.mkv", {"sound_codec": "mp3"}), ("a.ts", {}),
     ("a.webm", {"codec": "libvpx", "sound_codec": "libopus"}), ("a.avi", {"sound_codec": "pcm_s16le", **MJPEG})],
)  # fmt: skip
def test_audio_and_frames_of_every_container_share_one_clock(tmp_path, name, settings):
    info = probe(make_clip(tmp_path / name, sound=click(2, at=1.0), **settings))
    assert (info.width, info.height, info.has_audio, info.audio_rate) == (WIDTH, HEIGHT, True, RATE)
    assert (info.duration, info.frame_rate) == (pytest.approx(2.0, abs=0.05), pytest.approx(25, rel=0.03))
    assert numbers_at(info, [0.01, 0.51, 1.009, 1.01, 1.51, 1.98, 5.0]) == [0, 12, 25, 25, 37, 49, 49]
    assert click_at(info) == pytest.approx(1.0, abs=0.03)


def test_frame_shown_at_irregular_times(tmp_path):
    path = make_clip(tmp_path / "vfr.mp4", times=[0.0, 0.1, 0.15, 0.9, 1.0, 2.5], options={"bf": "2"})
    asked = [-1.0, 0.0, 0.0999, 0.1, 0.149, 0.5, 0.8999, 0.9, 2.4, 2.5, 9.0]
    assert numbers_at(path, asked) == [0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5]


def test_stream_without_time_stamps(tmp_path):
    info = probe(make_clip(tmp_path / "raw.h264"))
    assert info.duration == pytest.approx(2.0) and numbers_at(info, [0.0, 0.41, 1.99]) == [0, 10, 49]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotated_and_mirrored_video_is_read_as_shown(tmp_path, rotation, flip):
    path = make_clip(tmp_path / "turned.mp4", seconds=0.2, rotation=rotation, flip=flip)
    expected = np.rot90(picture(0), rotation // 90)[:, :: -1 if flip else 1]  # mirrored after it is turned
    info = probe(path)
    ((_, image),) = read_frames(info, [0.0])
    assert (info.height, info.width) == expected.shape[:2] and image.flags["C_CONTIGUOUS"]
    assert np.abs(image.astype(int) - expected).mean() < 6


def test_gif_is_read_and_has_no_sound(tmp_path):
    info = probe(make_clip(tmp_path / "a.gif", codec="gif", pix_fmt="rgb8", fps=10, times=[0, 0.1, 0.5, 0.8]))
    assert not info.has_audio and numbers_at(info, [0.0, 0.3, 0.6, 0.9]) == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"a\.gif: has no sound"):
        AudioWindows(info)


def test_decreasing_times_raise_value_error(tmp_path):
    path = make_clip(tmp_path / "a.mp4", seconds=1, sound=tone(1))
    with pytest.raises(ValueError, match="go back"):
        list(read_frames(path, [0.5, 0.4]))
    windows = AudioWindows(path)
    windows.read(100, 10)
    with pytest.raises(ValueError, match="forward"):
        windows.read(99, 10)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_audio_windows_hold_the_right_samples(tmp_path, rate):
    path = make_clip(tmp_path / "a.mkv", sound_codec="pcm_s16le", sound=click(2, 1.0, rate, 2), sound_rate=rate)
    windows = AudioWindows(path)
    before, around, after = (windows.read(start, 1_600) for start in (-800, 15_200, 31_200))
    assert not before.any() and not after[800:].any()
    assert np.flatnonzero(np.abs(around) > 0.3)[0] == pytest.approx(800, abs=8)  # half a millisecond
    assert np.abs(around).max() == pytest.approx(0.9, abs=0.1)


def test_any_chain_of_windows_equals_one_long_window(tmp_path):
    path = make_clip(tmp_path / "a.mp4", sound=tone(2))
    whole = AudioWindows(path).read(-2_000, 40_000)
    for step, length in [(400, 15_600), (9_000, 1_000), (15_600, 15_600)]:
        windows = AudioWindows(path)
        for start in range(-2_000, 22_000, step):
            np.testing.assert_array_equal(windows.read(start, length), whole[start + 2_000 : start + 2_000 + length])


def test_audio_windows_buffer_little_of_a_long_file(tmp_path):
    path = make_clip(tmp_path / "long.mkv", seconds=60, fps=1, sound=tone(60, 16_000), sound_rate=16_000)
    windows = AudioWindows(path)
    for second in range(60):
        assert np.abs(windows.read(second * 16_000, 16_000)).max() > 0.25 or second == 59
        assert windows._buffer.end - windows._buffer.first < 3 * 16_000


def test_late_frames_set_the_clock(tmp_path):
    times = [0.5 + n / 25 for n in range(50)]
    info = probe(make_clip(tmp_path / "late.mkv", times=times, sound=click(2.5, at=1.5)))
    assert (info.start, info.duration) == (pytest.approx(0.5, abs=0.03), pytest.approx(2.0, abs=0.05))
    assert numbers_at(info, [0.0, 1.01]) == [0, 25] and click_at(info) == pytest.approx(1.0, abs=0.04)


def test_a_gap_in_the_audio_is_silence(tmp_path):
    sound = click(2, at=1.5) + 0.01
    path = make_clip(tmp_path / "hole.mkv", sound=sound, sound_codec="pcm_s16le", hole=(0.4, 1.0))
    wave = AudioWindows(path).read(0, 32_000)
    assert click_at(path) == pytest.approx(1.5, abs=0.01) and not wave[8_000:15_000].any()
    assert wave[1_000:6_000].mean() == pytest.approx(0.01, abs=0.002)


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
    for content, words in [
        (b"", "0 bytes"), (b"this is not a video\n" * 50, "not a video"), (os.urandom(50_000), unreadable),
        (b"#EXTM3U\n/etc/passwd", unreadable),
    ]:  # fmt: skip
        (tmp_path / "a.mp4").write_bytes(content)
        raises(tmp_path / "a.mp4", words)
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1), "fltp", "mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
    raises(tmp_path / "a.wav", "no video stream")
    raises(make_clip(tmp_path / "silent.mp4", seconds=0.4), "has no sound")


@pytest.mark.parametrize(
    ("name", "share"),
    [(name, share) for name in ("index_last.mp4", "index_first.mp4", "a.mkv", "a.avi") for share in (0.2, 0.5, 0.9)]
    + [("index_last.mp4", 0.99)],  # with 99 %, the others are still complete
)
def test_a_truncated_file_is_refused(tmp_path, name, share):
    codec = {"sound_codec": "mp3", **MJPEG} if name.endswith("avi") else {}
    movie = {"movflags": "faststart"} if name == "index_first.mp4" else {}
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 4 * RATE)).astype(np.float32)
    path = make_clip(tmp_path / name, seconds=4, sound=noise, movie_options=movie, **codec)
    probe(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    raises(path, "cut short")


def overwritten(path, kind, numbers, byte=0):
    """Overwrite packets of one stream with a constant byte."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.stream.type == kind and packet.size]
    for number in numbers:
        place = data.find(packets[number])
        data[place : place + len(packets[number])] = bytes([byte]) * len(packets[number])
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_damaged_frame_is_replaced_by_the_previous_one(tmp_path, name):
    path = make_clip(tmp_path / name, sound=tone(2), options={"bf": "0", "g": "5", "sc_threshold": "0"})
    info = probe(overwritten(path, "video", [29, 34]))
    assert numbers_at(info, [1.14, 1.18, 1.22, 1.38, 1.98]) == [28, 28, 30, 33, 49]
    assert info.repaired.document() == {"damaged_pictures": 2}


@pytest.mark.parametrize("number", [47, 48, 49])
def test_frames_after_a_damaged_one_near_the_end_are_shown(tmp_path, number):
    """Decoder threads delay the last frames."""
    path = overwritten(make_clip(tmp_path / "a.mp4", sound=tone(2), **MJPEG), "video", [number])
    assert numbers_at(path, [n / 25 + 0.02 for n in (46, 47, 48, 49)]) == [n - (n == number) for n in (46, 47, 48, 49)]


def test_a_damaged_first_frame_does_not_move_the_clock(tmp_path):
    path = make_clip(tmp_path / "a.mp4", sound=click(2, at=1.0), options={"g": "10", "bf": "0"})
    info = probe(overwritten(path, "video", [0]))
    assert numbers_at(info, [0.1, 0.42, 1.02]) == [10, 10, 25] and info.duration == pytest.approx(2, abs=0.03)
    assert click_at(info) == pytest.approx(1.0, abs=0.03)
    assert info.repaired.document()["missing_beginning"] == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("codec", ["aac", "flac", "ac3"])
def test_a_damaged_audio_packet_is_silence_and_shifts_nothing(tmp_path, codec):
    path = make_clip(tmp_path / "a.mkv", sound=click(2, at=1.5) + tone(2) / 10, sound_codec=codec)
    info = probe(overwritten(path, "audio", [10, 11, 14], 255))
    assert click_at(info) == pytest.approx(1.5, abs=0.005) and info.repaired.document() == {"damaged_sound": 3}


def test_mostly_damaged_streams_are_refused(tmp_path):
    path = make_clip(tmp_path / "a.mp4", sound=tone(2), **MJPEG)
    info = probe(overwritten(path, "video", range(10, 36)))
    with pytest.raises(UserError, match="more than half of its video is damaged"):
        numbers_at(info, [1.9])
    info = probe(overwritten(path, "audio", range(10, 80)))
    with pytest.raises(UserError, match="more than half of its sound is damaged"):
        click_at(info)


def test_a_truncated_last_packet_is_reported(tmp_path):
    path = make_clip(tmp_path / "a.mp4", seconds=4, sound=tone(4), movie_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-60])
    assert probe(path).repaired.document()["incomplete_packets"] == 1


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    raises(tmp_path / "pipe.mp4", "save what it gives as a file first")
    raises(Path("/dev/null"), "is a pipe or a device")
    readers = read_waveform, open_image, lambda path: read_mask(path, "S4"), lambda path: read_log_mel(path, 1)
    for read in readers:
        with pytest.raises(UserError, match="is a pipe or a device, which is read only once"):
            read(tmp_path / "pipe.mp4")
