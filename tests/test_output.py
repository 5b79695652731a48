"""Overlay drawing, contact sheet, overlay videos of unusual inputs, their thread, and frames for two consumers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import av
import numpy as np
import pytest
from clip_maker import click, make_clip, number_in, tone

from icf_avs.media import frame_tee
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.frame_tee import FrameTee
from icf_avs.media.video_reader import probe, read_frames, video_frames
from icf_avs.output.video_writer import WriterThread, write_video
from icf_avs.results import FrameMask


def overlaid(source):
    """Path of an overlay video without a mask."""
    info, path = probe(source), source.with_name("overlay.mp4")
    mask = np.zeros((info.height, info.width), bool)
    write_video(info, path, lambda time: min(int(time), 9), lambda number: mask, lambda number: None)
    return path


def test_irregular_times_and_late_sound_are_kept(tmp_path):
    shown = [0.0, 0.1, 0.15, 0.9, 1.0, 2.5]
    source = make_clip(tmp_path / "a.mkv", times=shown, sound=click(2, at=1.0), sound_at=0.7)
    path = overlaid(source)
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    # the frame of 1.0 s outlasts its mask and is repeated with the next one
    np.testing.assert_allclose(times, [0.0, 0.1, 0.15, 0.9, 1.0, 2.0, 2.5], atol=0.002)
    assert probe(path).duration == pytest.approx(probe(source).duration, abs=0.02)
    wave = AudioWindows(path).read(0, 48_000)
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(1.7, abs=0.03)


@pytest.mark.parametrize(("fps", "expected"), [(60, 30), (50, 30), (24, 24)])
def test_high_frame_rates_are_reduced_to_thirty(tmp_path, fps, expected):
    result = probe(overlaid(make_clip(tmp_path / "a.mkv", fps=fps, sound=tone(2))))
    assert result.frame_rate == pytest.approx(expected, abs=0.6) and result.duration == pytest.approx(2, abs=0.03)
    for moment, image in read_frames(result, [0.5, 1.0, 1.5]):
        assert abs(number_in(image) - moment * fps) <= 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("case", ["late sound", "late frames"])
def test_aac_audio_is_copied(tmp_path, name, case):
    """Packets are copied with their timestamps; audio before the first frame is left out."""
    times = [0.5 + number / 25 for number in range(50)] if case == "late frames" else None
    source = make_clip(tmp_path / name, times=times, sound=tone(2.5), sound_at=0.3 if case == "late sound" else 0.0)
    info, found = probe(source), []
    for path in (source, overlaid(source)):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
            found.append([(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets])
    own, made = found
    left_out = len(own) - len(made)
    assert info.audio_unbroken and [data for _, data in own[left_out:]] == [data for _, data in made]
    assert np.abs([at - info.start - put for (at, _), (put, _) in zip(own[left_out:], made, strict=True)]).max() < 0.001
    assert left_out == (23 if case == "late frames" else 0)  # packets of 1,024 samples; the last before 0.5 s is kept


def test_a_gap_in_the_audio_is_silence(tmp_path):
    source = make_clip(tmp_path / "a.mp4", sound=click(2, at=1.5) + 0.5 * click(2, at=0.1), hole=(0.4, 1.0))
    assert not probe(source).audio_unbroken
    heard = np.abs(AudioWindows(overlaid(source), 48_000).read(0, 96_000))
    assert abs(int(heard.argmax()) - 72_000) < 480 and heard[24_000:43_200].max() < 0.01


@pytest.mark.parametrize("masks", [1, 1000])
def test_errors_of_the_writer_thread_are_raised_in_the_caller(masks):
    def write(frame_of, shown):
        frame_of(0)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), WriterThread(write) as writer:
        for index in range(masks):
            writer.add(FrameMask(index, index, index + 1, index, 0, 0, (), {}))
            time.sleep(0.005)
        writer.finish(lambda: None)
    assert len(writer.frames) < 1000
    assert not any(thread.name.startswith("video-writer") for thread in threading.enumerate())


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    """Video of fifty frames."""
    return probe(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=2, sound=tone(2)))


@pytest.fixture
def reading():
    """Function that starts to read `count` frames of the second consumer, or all, once `may` is set."""

    def read(shared, may, count):
        may.wait()
        with shared.behind() as pictures:
            return [moment for moment, _ in islice(pictures, count)]

    pool = ThreadPoolExecutor()
    return lambda shared, may, count=None: pool.submit(read, shared, may, count)


@pytest.mark.parametrize("seconds", [1.0, 1e6], ids=["shared", "too large"])
@pytest.mark.parametrize("ahead", [0, 1, 20, 1000])
def test_both_consumers_get_every_frame_wherever_the_first_stops(info, seconds, ahead, reading):
    every, may = [moment for moment, _ in video_frames(info)], threading.Event()
    with FrameTee(info, seconds=seconds) as shared:
        behind = reading(shared, may)
        with shared.ahead() as pictures:
            seen = [moment for moment, _ in islice(pictures, ahead)]
        may.set()
        assert behind.result(10) == every
    assert len(every) == 50 and seen == every[:ahead]


@pytest.mark.parametrize("first", [20, 45])
def test_the_first_consumer_waits_until_the_other_is_near(info, first, monkeypatch):
    """It need not draw all later frames, as in a video whose frame rate rises."""
    opened = []
    monkeypatch.setattr(frame_tee, "video_frames", lambda info: opened.append(1) or video_frames(info))
    with FrameTee(info, seconds=0.16) as shared, shared.ahead() as ahead, shared.behind() as behind:
        list(islice(ahead, first))
        waiting = ThreadPoolExecutor().submit(shared.wait, 0.6)
        list(islice(behind, 14))
        time.sleep(0.05)
        assert not waiting.done() and next(behind)[0] == pytest.approx(0.56)
        waiting.result(10)
    assert opened == [1]


@pytest.mark.parametrize("seconds", [0.4, 1e6], ids=["shared", "too large"])
@pytest.mark.parametrize(("failure", "count"), [(KeyboardInterrupt, 50), (None, 3)])
def test_a_consumer_that_has_left_is_not_awaited(info, seconds, failure, count, reading):
    may = threading.Event()
    may.set()
    with FrameTee(info, seconds=seconds) as shared:
        with suppress(KeyboardInterrupt), shared.ahead() as pictures:
            next(pictures)
            behind = reading(shared, may, count)
            if failure:
                raise failure
            assert len(list(pictures)) == 49 and len(behind.result(10)) == 3
            shared.wait(9.0)
        assert len(behind.result(10)) == count
