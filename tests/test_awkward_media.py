"""Unusual files through all of `icf segment`: correct masks at the correct times, or a one-line error.

Synchrony is tested by a clap: a flash and a click at a known time, located in the inputs of the model. Common
containers, rotated frames and the like: test_media.py, test_segment.py.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clip_maker import RATE, click, make_clip, remux, tone
from witness import Witness

from icf_avs.__main__ import main
from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.result_file import read_segmentation
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.types import ClipSpec

pytestmark = pytest.mark.full

CLAP = 1.0  # time of flash and click in seconds
ALIGNED = 0.04  # tolerance in seconds
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "sound_codec": "pcm_s16le"}


def heard_and_seen(path, fps=50.0, **settings):
    """Times of click and flash in the model's inputs at `fps` masks per second, and the result."""
    model = Witness()
    result = segment_video(model, path, fps=fps, **settings)
    # Mask i is of the frame at (i + 1/2)/fps: the flash began between the one before and this one.
    seen = next(index for index, frame in enumerate(model.frames) if frame.min() > 200) / fps
    spec = ClipSpec(fps=fps)
    at = [(abs(wave).max(), spec.window_start(i) + abs(wave).argmax()) for i, wave in enumerate(model.waveforms)]
    return max(at)[1] / spec.sample_rate, seen, result


def assert_clap(path, at=CLAP, fps=50.0, **settings):
    heard, seen, _ = heard_and_seen(path, fps, **settings)
    assert abs(seen - at) <= ALIGNED and abs(heard - at) <= ALIGNED and abs(heard - seen) <= ALIGNED, (seen, heard)


def clap(path, **settings):
    """Write a two-second video with a clap."""
    return make_clip(path, flash=CLAP, **{"sound": click(2, at=CLAP), **settings})


TIMES = sorted({0.0, CLAP, *(round(random.Random(n).uniform(0, 2), 3) for n in range(30))})
X265 = {"x265-params": "log-level=none"}
CLAPS = [  # name, options; other containers: test_media.py
    ("a.mkv", {"sound_codec": "flac"}),
    ("a.mkv", {"codec": "libx265", "sound_codec": "ac3"}),
    ("a.webm", {"codec": "libvpx-vp9", "sound_codec": "libopus"}),
    ("a.nut", {"codec": "ffv1", "sound_codec": "pcm_s24le"}),
    ("a.avi", {"codec": "mpeg4", "sound_codec": "pcm_s16le"}),
    ("a.mpg", {"codec": "mpeg2video", "sound_codec": "mp2"}),
    ("a.flv", {"codec": "flv1"}),
    ("a.mov", {"codec": "gif", "pix_fmt": "rgb8", "fps": 25}),  # GIF frames in a container with audio
    ("a.mp4", {"times": TIMES, "movie_options": {"use_editlist": "1"}}),
    ("a.mkv", {"times": TIMES}),
    *[("a.mp4", {"fps": fps}) for fps in (10, 12, 60, 120)],
    ("a.nut", {"pix_fmt": "yuv420p10le"}),
    ("a.nut", {"codec": "libx265", "pix_fmt": "yuv422p10le", "options": X265}),
    ("a.nut", {"codec": "ffv1", "pix_fmt": "gray16le"}),
    ("a.nut", {"codec": "ffv1", "pix_fmt": "rgb48le"}),
    ("a.nut", {"codec": "png", "pix_fmt": "rgba"}),
    ("a.nut", {"options": {"x264-params": "tff=1"}}),  # interlaced
    ("a.nut", {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}}),
]


@pytest.mark.parametrize(("name", "special"), CLAPS)
def test_clap_in_many_containers_and_codecs(tmp_path, name, special):
    assert_clap(clap(tmp_path / name, **special))


@pytest.mark.parametrize(
    ("name", "shift", "at"),
    [
        *[(name, shift, CLAP) for name in ("a.mp4", "a.mkv", "a.ts") for shift in (5.0, 4_000.0)],
        ("a.ts", -7.3, CLAP),
        ("a.mp4", -0.5, CLAP - 0.5),  # frames before zero are not shown
    ],
)
def test_clap_with_shifted_time_stamps(tmp_path, name, shift, at):
    source = clap(tmp_path / "source.mp4", options={"bf": "2"})
    path = remux(tmp_path / name, source, shift=shift, options={"avoid_negative_ts": "disabled", "muxdelay": "0"})
    assert_clap(path, at)


def test_single_frame_stored_after_its_audio(tmp_path):
    """The decoder returns the only frame at the end of the video stream, which is not the first stream."""
    source = make_clip(tmp_path / "source.mp4", times=[0.0], sound=tone(0.5), options={"bf": "2"})
    assert len(segment_video(Witness(), remux(tmp_path / "a.mkv", source, sound_first=True))) == 1


def test_clap_without_time_stamps(tmp_path):
    assert_clap(remux(tmp_path / "a.avi", clap(tmp_path / "source.avi", **MJPEG), stamps=False))


def test_streams_that_begin_in_mid_file_are_ignored(tmp_path):
    """Found by fuzzing: PyAV fails at the end of a file that has other streams than at its beginning."""
    first = clap(tmp_path / "first.ts").read_bytes()
    other = bytearray(make_clip(tmp_path / "other.ts", seconds=1, sound=tone(1)).read_bytes())
    for at in range(0, len(other), 188):  # a 188-byte packet has its stream number in 13 header bits
        if int.from_bytes(other[at + 1 : at + 3], "big") & 0x1FFF in (0x100, 0x101):
            other[at + 2] |= 0x80
    nothing = (b"G\x1f\xff\x10" + bytes(184)) * 40_000  # more than is probed when the file is opened
    path = tmp_path / "both.ts"
    path.write_bytes(first + nothing + other)
    with av.open(str(path)) as container, pytest.raises(IndexError):
        list(container.demux())
    assert_clap(path)
    assert probe(path).duration == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_clap_in_audio_that_starts_late_and_ends_early(tmp_path, name):
    path = clap(tmp_path / name, sound=click(0.7, at=CLAP - 0.6), sound_at=0.6)
    assert_clap(path)
    wave = AudioWindows(path).read(0, 32_000)
    assert not wave[:8_000].any() and not wave[23_000:].any()


@pytest.mark.parametrize(
    ("rate", "channels"),
    [(8_000, 2), (22_050, 2), (96_000, 2), (192_000, 2), (44_100, 1), (192_000, 4), (48_000, 6), (8_000, 8),
     (48_000, 9)],
)  # fmt: skip
def test_clap_at_many_sample_rates_and_channel_layouts(tmp_path, rate, channels):
    """Four channels are ambisonic, nine have no names."""
    sound = click(2, at=CLAP, rate=rate, channels=channels)
    path = clap(tmp_path / "a.nut", sound=sound, sound_rate=rate, sound_codec="pcm_s16le", fps=25)
    assert_clap(path, fps=25.0, out=tmp_path)  # mixed for the overlay too


@pytest.mark.parametrize(
    "codec", ["pcm_u8", "pcm_mulaw", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "adpcm_ms"]
)
def test_clap_in_many_sample_formats(tmp_path, codec):
    path = clap(tmp_path / "a.nut", sound_codec=codec, fps=25)
    assert_clap(path, fps=25.0)
    wave = AudioWindows(path).read(0, 32_000)
    assert np.abs(wave).max() == pytest.approx(0.9, abs=0.12) and np.abs(wave[2_000:14_000]).max() < 0.01


def test_nan_and_infinite_samples_give_finite_scores(tmp_path):
    sound = click(2, at=CLAP)
    sound[:, 10_000:10_100], sound[:, 20_000:20_100], sound[:, 30_000] = np.nan, np.inf, 1e30
    path = clap(tmp_path / "a.mkv", sound=sound, sound_codec="pcm_f32le")
    result = segment_video(Witness(), path, tmp_path / "out", fps=5.0)
    assert len(result) == 10 and np.isfinite(result.scores).all()


@pytest.mark.parametrize("seconds", [0.0005, 0.005, 0.1])
def test_audio_shorter_than_a_window(tmp_path, seconds):
    path = make_clip(tmp_path / "a.mkv", seconds=2, sound=tone(seconds) + 0.2, sound_codec="pcm_s16le")
    model = Witness()
    assert len(segment_video(model, path, tmp_path / "out", fps=2.0)) == 4
    assert np.count_nonzero(model.waveforms[0]) == pytest.approx(seconds * 16_000, abs=20)
    assert not model.waveforms[2].any()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", {}), ("a.mkv", {}), ("a.avi", MJPEG)])
def test_single_frame_lasts_as_long_as_its_audio(tmp_path, name, codec):
    path = make_clip(tmp_path / name, times=[0.0], flash=0.0, sound=click(3, at=2.5), **codec)
    result = segment_video(Witness(), path, tmp_path / "out")
    assert [mask.any() for mask in result.masks] == [False, False, True]
    overlay = probe(result.folder / "overlay.mp4")
    assert overlay.duration == pytest.approx(3, abs=0.1)
    drawn = [(image < 250).any() for _, image in read_frames(overlay, [0.5, 1.5, 1.95, 2.05, 2.9])]
    assert drawn == [False, False, False, True, True]  # the mask changes while the frame does not


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 200), (500, 1), (161, 121), (3840, 2160)])
def test_tiny_odd_and_large_frames(tmp_path, size):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        codec, pix_fmt = ("ffv1", "bgr0") if size[0] < 1000 else ("mjpeg", "yuvj420p")
        video, audio = container.add_stream(codec, rate=25), container.add_stream("pcm_s16le", rate=RATE)
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        white = np.full((size[1], size[0], 3), 255, np.uint8)
        container.mux(video.encode(av.VideoFrame.from_ndarray(white, "rgb24").reformat(format=pix_fmt)))
        block = av.AudioFrame.from_ndarray(tone(0.04), "fltp", "mono")
        block.sample_rate = RATE
        container.mux([*audio.encode(block), *video.encode(None)])
    result = segment_video(Witness(), tmp_path / "a.mkv", tmp_path / "out")
    assert result.masks.shape == (1, *size[::-1]) and result.masks.all()
    overlay = probe(result.folder / "overlay.mp4")
    assert (overlay.width, overlay.height) == tuple(side + side % 2 for side in size)


def test_frames_larger_than_8k_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "a.png"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        video = container.add_stream("png", rate=25)
        video.width, video.height, video.pix_fmt = 12_000, 6_000, "monob"
        container.mux([*video.encode(av.VideoFrame(12_000, 6_000, "monob")), *video.encode(None)])
    with pytest.raises(UserError, match="12000 x 6000, larger than 8K"):
        probe(path)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Three audio tracks with their clicks at 0.5, 1.0 and 1.5 s; the file marks the second as default."""
    folder = tmp_path_factory.mktemp("tracks")
    parts = [clap(folder / f"{n}.mp4", sound=click(2, at=0.5 * (n + 1))) for n in range(3)]
    return remux(folder / "tracks.mkv", *parts, default=1)


@pytest.mark.parametrize(("track", "at"), [(None, 1.0), (1, 0.5), (2, 1.0), (3, 1.5)])
def test_requested_audio_track_is_used(tracks, tmp_path, track, at):
    heard, seen, result = heard_and_seen(tracks, out=tmp_path, audio_track=track)
    assert heard == pytest.approx(at, abs=ALIGNED) and seen == pytest.approx(CLAP, abs=ALIGNED)
    assert result.video.audio_track == (track or 2)
    wave = AudioWindows(result.folder / "overlay.mp4").read(0, 32_000)  # the overlay has the same audio
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(at, abs=ALIGNED)


def test_missing_audio_track_is_reported(tracks, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda checkpoint, device="auto": Segmenter(Witness(), "tiny"))
    assert main(["segment", str(tracks), "--out", str(tmp_path / "out"), "--audio-track", "4"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "audio track 4 is not there" in line
    assert "1 (aac, mono, deu), 2 (aac, mono, eng), 3 (aac, mono, fra)" in line
    assert main(["segment", str(tracks), "--out", str(tmp_path / "out"), "--audio-track", "3"]) == 0
    with pytest.raises(UserError, match="has no sound"):
        segment_video(Witness(), make_clip(tmp_path / "silent.mp4", seconds=0.2), audio_track=2)


@pytest.mark.parametrize("times", [[0, 0.04, 100 * 3600], [0, 0.04, 30 * 60]])
def test_long_gaps_are_skipped_and_reported(tmp_path, times):
    result = segment_video(Witness(), make_clip(tmp_path / "a.mkv", times=times, sound=tone(0.5)), tmp_path / "out")
    assert result.video.duration < 1.1
    assert json.loads((result.folder / "segmentation.json").read_text())["repaired"]["clock_jumps"]


def test_more_than_a_day_is_refused(tmp_path):
    path = make_clip(tmp_path / "a.mkv", times=[n * 500 for n in range(180)], sound=tone(0.5))
    with pytest.raises(UserError, match="lasts 25 hours"):
        segment_video(Witness(), path, tmp_path / "out")


@pytest.fixture(scope="module")
def scratched(tmp_path_factory):
    """Video with one damaged frame and one damaged AAC packet of 190; the overlay video copies AAC."""
    path = make_clip(tmp_path_factory.mktemp("scratched") / "a.mp4", seconds=4, sound=tone(4), options={"bf": "0"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size, packet.stream.type) for packet in container.demux() if packet.size]
    for kind in ("video", "audio"):
        place, size, _ = [packet for packet in packets if packet[2] == kind][60]
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def test_repairs_are_reported(scratched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: Segmenter(Witness(), "tiny"))
    assert main(["segment", str(scratched), "--out", str(tmp_path)]) == 0
    told = "1 of 189 packets of sound are damaged"
    assert told in capsys.readouterr().out
    document = json.loads((tmp_path / "a" / "segmentation.json").read_text())
    assert document["repaired"] == {"damaged_pictures": 1, "damaged_sound": 1} and len(document["frames"]) == 4
    assert len(read_segmentation(tmp_path / "a")) == 4
    assert told in run_inference(Segmenter(Witness(), ""), scratched, tmp_path, Limits()).summary
    overlay = probe(tmp_path / "a" / "overlay.mp4")  # without the damaged packet
    wave = AudioWindows(overlay).read(0, 64_000)
    assert overlay.audio_codec == "aac" and not overlay.repaired.damaged_audio
    assert overlay.duration == pytest.approx(4, abs=0.05) and np.abs(wave[62_000:63_500]).max() > 0.25  # to the end


def test_a_growing_file_is_segmented_as_probed(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.ts", seconds=4, sound=tone(4), options={"g": "10"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    monkeypatch.setattr("icf_avs.inference.segment.probe", lambda *given: (probe(*given), path.write_bytes(data))[0])
    result = segment_video(Witness(), path, tmp_path / "out")
    overlay = probe(result.folder / "overlay.mp4")
    assert result.video.duration < 3 and overlay.duration == pytest.approx(result.video.duration, abs=0.1)
    document = json.loads((result.folder / "segmentation.json").read_text())
    assert document["repaired"]["grown"] and document["frames"][-1]["end"] == pytest.approx(overlay.duration, abs=0.1)


def test_a_long_still_frame_with_audio_is_no_clock_jump(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video, audio = container.add_stream("ffv1", rate=25), container.add_stream("pcm_s16le", rate=8_000)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        container.mux([*video.encode(av.VideoFrame(32, 32, "yuv420p")), *video.encode(None)])
        for second in range(900):
            packet = av.Packet(bytes(16_000))
            packet.stream, packet.time_base, packet.pts, packet.dts = audio, Fraction(1), second, second
            container.mux(packet)
    assert probe(tmp_path / "a.mkv").duration == pytest.approx(900, abs=1.1)


def test_long_videos_stay_in_sync(monkeypatch):
    """benchmarks/long_media.py with 75 seconds instead of up to three hours."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    wrong, _ = importlib.import_module("long_media").measured(75)
    assert wrong == 0


@pytest.mark.parametrize("name", ["a.mp4", "first.mp4", "a.mkv", "a.ts", "a.avi", "a.webm"])
def test_truncated_at_any_byte(tmp_path, name):
    codecs = {"avi": MJPEG | {"sound_codec": "mp3"}, "webm": {"codec": "libvpx", "sound_codec": "libopus"}}
    movie = {"movflags": "faststart"} if name == "first.mp4" else {}
    special = codecs.get(name[2:], {})
    path = make_clip(tmp_path / name, seconds=1, size=(64, 48), sound=tone(1), movie_options=movie, **special)
    data, rng, answered = path.read_bytes(), random.Random(name), 0
    ends = {*range(1, 16), *rng.sample(range(len(data)), 25), *range(len(data) - 8, len(data)), len(data)}
    for end in sorted(ends):
        path.write_bytes(data[:end])
        out = tmp_path / "out" if end % 8 == 0 or end == len(data) else None
        try:
            result = segment_video(Witness(frames=2), path, out)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error) and "free some space" not in str(error)
            assert end < len(data)
        else:
            answered += 1
            assert result.video.duration > 0.85 or name == "a.ts", end  # .ts does not store its duration
    assert answered < len(ends) or name == "a.ts"


def test_unreadable_audio_causes_no_deadlock(tmp_path, monkeypatch):
    """Found by fuzzing: the thread of the overlay video waited for masks that never came."""
    path, said = make_clip(tmp_path / "a.mp4", seconds=1, sound=tone(1)), []

    def broken(*_):
        raise UserError("its sound cannot be opened")

    def run():
        with pytest.raises(UserError, match="cannot be opened") as caught:
            segment_video(Witness(), path, tmp_path / "out")
        said.append(caught.value)

    monkeypatch.setattr("icf_avs.inference.streaming.AudioWindows", broken)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert said and not os.path.exists(tmp_path / "out" / "a")
