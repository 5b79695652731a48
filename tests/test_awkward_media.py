"""Unusual, joined, damaged and truncated files through all of `icf segment`: correct masks at the correct times, or a
one-line error.

Synchrony is tested by a clap, a flash and a click at a known time, located in the inputs of the model; and by the files
of known content of benchmarks/, whose fuzzers make a short run.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
from av.stream import Disposition
from clip_maker import RATE, click, make_clip, overwrite, tone
from PIL import Image
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

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
known_clips, known_kinds, known_media = map(importlib.import_module, ("known_clips", "known_kinds", "known_media"))
fuzz_media, fuzz_tables = map(importlib.import_module, ("fuzz_media", "fuzz_tables"))
media_seeds, untrusted_readers = map(importlib.import_module, ("media_seeds", "untrusted_readers"))
Known, find_errors = known_clips.Known, known_media.find_errors

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


def assert_clap(path, fps=50.0, **settings):
    heard, seen, _ = heard_and_seen(path, fps, **settings)
    assert abs(seen - CLAP) <= ALIGNED and abs(heard - CLAP) <= ALIGNED and abs(heard - seen) <= ALIGNED, (seen, heard)


def clap(path, **settings):
    return make_clip(path, flash=CLAP, **{"sound": click(2, at=CLAP), **settings})


TIMES = sorted({0.0, CLAP, *(round(random.Random(n).uniform(0, 2), 3) for n in range(30))})
CLAPS = [
    ("a.avi", {"codec": "mpeg4", "sound_codec": "pcm_s16le"}), ("a.avi", MJPEG),
    ("a.mpg", {"codec": "mpeg2video", "sound_codec": "mp2"}), ("a.flv", {"codec": "flv1"}),
    ("a.mov", {"codec": "gif", "pix_fmt": "rgb8", "fps": 25}),  # GIF frames in a container with audio
    ("a.mp4", {"times": TIMES, "movie_options": {"use_editlist": "1"}}), ("a.mkv", {"times": TIMES}),
    ("a.mp4", {"fps": 10}), ("a.mp4", {"fps": 120}),
    ("a.nut", {"codec": "libx265", "pix_fmt": "yuv422p10le", "options": {"x265-params": "log-level=none"}}),
    ("a.nut", {"codec": "ffv1", "pix_fmt": "rgb48le", "sound_codec": "pcm_s24le"}),
    ("a.nut", {"options": {"x264-params": "tff=1"}}),  # interlaced
    *[(name, {"sound": click(0.7, at=CLAP - 0.6), "sound_at": 0.6}) for name in ("a.mp4", "a.mkv", "a.ts")],
]  # fmt: skip


@pytest.mark.parametrize(("name", "special"), CLAPS)
def test_clap_in_many_containers_and_codecs(tmp_path, name, special):
    assert_clap(clap(tmp_path / name, **special))


SOUNDS = [("pcm_s16le", 8_000, 2), ("pcm_s16le", 192_000, 4), ("pcm_s16le", 48_000, 6), ("pcm_s16le", 8_000, 8),
          ("pcm_s16le", 48_000, 9)]  # fmt: skip  # four channels are ambisonic, nine have no names
SOUNDS += [(codec, RATE, 1) for codec in ("pcm_u8", "pcm_mulaw", "pcm_f64le", "adpcm_ms")]


@pytest.mark.parametrize(("codec", "rate", "channels"), SOUNDS)
def test_clap_at_many_sample_rates_layouts_and_formats(tmp_path, codec, rate, channels):
    sound = click(2, at=CLAP, rate=rate, channels=channels)
    path = clap(tmp_path / "a.nut", sound=sound, sound_rate=rate, sound_codec=codec, fps=25)
    assert_clap(path, fps=25.0, out=tmp_path)  # mixed for the overlay too
    wave = AudioWindows(path).read(0, 32_000)
    assert np.abs(wave).max() == pytest.approx(0.9, abs=0.12) and np.abs(wave[2_000:14_000]).max() < 0.01


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", {}), ("a.mkv", {}), ("a.avi", MJPEG)])
def test_single_frame_lasts_as_long_as_its_audio(tmp_path, name, codec):
    path = make_clip(tmp_path / name, times=[0.0], flash=0.0, sound=click(3, at=2.5), **codec)
    result = segment_video(Witness(), path, tmp_path / "out")
    assert [mask.any() for mask in result.masks] == [False, False, True]
    overlay = probe(result.folder / "overlay.mp4")
    assert overlay.duration == pytest.approx(3, abs=0.1)
    drawn = [(image < 250).any() for _, image in read_frames(overlay, [0.5, 1.5, 1.95, 2.05, 2.9])]
    assert drawn == [False, False, False, True, True]  # the mask changes while the frame does not


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (500, 1), (161, 121), (3840, 2160)])
def test_tiny_odd_and_large_frames(tmp_path, size):
    codec = MJPEG if size[0] > 1000 else {"codec": "ffv1", "pix_fmt": "bgr0", "sound_codec": "pcm_s16le"}
    path = make_clip(tmp_path / "a.mkv", times=[0.0], flash=0.0, size=size, sound=tone(0.04), **codec)
    result = segment_video(Witness(), path, tmp_path / "out")
    assert result.masks.shape == (1, *size[::-1]) and result.masks.all()
    overlay = probe(result.folder / "overlay.mp4")
    assert (overlay.width, overlay.height) == tuple(side + side % 2 for side in size)


def test_too_large_and_too_long_files_are_refused(tmp_path):
    Image.new("1", (12_000, 6_000)).save(tmp_path / "a.png")
    long = make_clip(tmp_path / "a.mkv", times=[n * 500 for n in range(180)], sound=tone(0.5))
    for path, words in ((tmp_path / "a.png", "12000 x 6000, larger than 8K"), (long, "lasts 25 hours")):
        with pytest.raises(UserError, match=words):
            segment_video(Witness(), path, tmp_path / "out")


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Three audio tracks with their clicks at 0.5, 1.0 and 1.5 s; the file marks the second as default."""
    folder = tmp_path_factory.mktemp("tracks")
    clips = [av.open(str(clap(folder / f"{n}.mp4", sound=click(2, at=0.5 * (n + 1))))) for n in range(3)]
    with av.open(str(folder / "tracks.mkv"), "w") as out:
        streams = [clips[0].streams.video[0], *(clip.streams.audio[0] for clip in clips)]
        copies = [out.add_stream_from_template(stream) for stream in streams]
        for stream, language in zip(copies[1:], ("deu", "eng", "fra"), strict=True):
            stream.disposition, stream.metadata["language"] = Disposition.default * (language == "eng"), language
        for stream, copy in zip(streams, copies, strict=True):
            stream.container.seek(0)
            for packet in stream.container.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    return folder / "tracks.mkv"


@pytest.mark.parametrize(("track", "at"), [(None, 1.0), (1, 0.5), (3, 1.5)])
def test_requested_audio_track_is_used(tracks, tmp_path, track, at):
    heard, seen, result = heard_and_seen(tracks, out=tmp_path, audio_track=track)
    assert heard == pytest.approx(at, abs=ALIGNED) and seen == pytest.approx(CLAP, abs=ALIGNED)
    assert result.video.audio_track == (track or 2)
    wave = AudioWindows(result.folder / "overlay.mp4").read(0, 32_000)  # the overlay has the same audio
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(at, abs=ALIGNED)


def test_missing_audio_track_is_reported(tracks):
    with pytest.raises(UserError, match="audio track 4 is not there") as error:
        probe(tracks, 4)
    assert "1 (aac, mono, deu), 2 (aac, mono, eng), 3 (aac, mono, fra)" in str(error.value)


def test_repairs_are_reported(tmp_path, capsys, monkeypatch):
    """One damaged frame and one damaged AAC packet of 190; the overlay video copies AAC."""
    path = make_clip(tmp_path / "a.mp4", seconds=4, sound=tone(4), options={"bf": "0"})
    overwrite(overwrite(path, "video", [60], 255), "audio", [60], 255)
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: Segmenter(Witness(), "tiny"))
    assert main(["segment", str(path), "--out", str(tmp_path)]) == 0
    told, folder = "1 of 189 packets of sound are damaged", tmp_path / "a"
    assert told in capsys.readouterr().out
    document = json.loads((folder / "segmentation.json").read_text())
    assert document["repaired"] == {"damaged_pictures": 1, "damaged_sound": 1}
    assert len(read_segmentation(folder)) == 4
    assert told in run_inference(Segmenter(Witness(), ""), path, tmp_path, Limits()).summary
    overlay = probe(folder / "overlay.mp4")  # without the damaged packet
    assert overlay.audio_codec == "aac" and not overlay.repaired.damaged_audio
    wave = AudioWindows(overlay).read(62_000, 1_500)
    assert overlay.duration == pytest.approx(4, abs=0.05) and np.abs(wave).max() > 0.25  # to the end


def test_unreadable_audio_causes_no_deadlock(tmp_path, monkeypatch):
    """Found by fuzzing: the thread of the overlay video waited for masks that never came."""
    path = make_clip(tmp_path / "a.mp4", seconds=1, sound=tone(1))
    broken = Mock(side_effect=UserError("its sound cannot be opened"))
    monkeypatch.setattr("icf_avs.inference.streaming.AudioWindows", broken)
    told = ThreadPoolExecutor().submit(segment_video, Witness(), path, tmp_path / "out").exception(timeout=60)
    assert isinstance(told, UserError) and not (tmp_path / "out" / "a").exists()


def test_nan_and_infinite_samples_give_finite_scores(tmp_path):
    sound = click(2, at=CLAP)
    sound[:, 10_000:10_100], sound[:, 20_000:20_100], sound[:, 30_000] = np.nan, np.inf, 1e30
    path = clap(tmp_path / "a.mkv", sound=sound, sound_codec="pcm_f32le")
    result = segment_video(Witness(), path, tmp_path / "out", fps=5.0)
    assert len(result) == 10 and np.isfinite(result.scores).all()


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


def join_known(path, lengths, movie=None, **first):
    """Write clips of so many seconds, one after the other; return their contents. first: settings of the first."""
    every = [known_clips.content(np.random.default_rng(7 + n), length) for n, length in enumerate(lengths)]
    path.write_bytes(b"")
    for n, seconds in enumerate(every):
        part = known_clips.make(path.with_name(f"{n}{path.suffix}"), seconds, movie=movie, **({} if n else first))
        path.write_bytes(path.read_bytes() + part.read_bytes())
    return every


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", known_kinds.KINDS)
def test_every_second_has_its_frame_and_audio(tmp_path, kind, number):
    path, known = known_kinds.KINDS[kind](tmp_path, np.random.default_rng([5, number]))
    assert not find_errors(path, known, tmp_path / "out")
    if kind == "followed":
        assert any("hold neither video nor sound" in line for line in probe(path).repaired.lines())


@pytest.mark.parametrize(("end", "movie"), known_kinds.JOINED)
def test_joined_files_are_segmented_whole(tmp_path, end, movie):
    """Three files in every container; FFmpeg alone stops at the second header of most."""
    path = tmp_path / f"it's 3:joined.{end}"
    every = join_known(path, (2, 3, 1), movie)
    assert not find_errors(path, Known(tuple(chain(*every)), repaired=True))
    info = probe(path)
    assert info.duration == pytest.approx(6, abs=0.15)
    found = {"joined_files": 3} | info.repaired.document()
    jumps = [pytest.approx(2, abs=0.1), pytest.approx(5, abs=0.1)]
    assert found == {"joined_files": 3, "clock_jumps": jumps}


def test_a_truncated_part_is_refused(tmp_path):
    clip = make_clip(tmp_path / "a.flv", sound=tone(2), codec="flv1")
    clip.write_bytes(clip.read_bytes() + clip.read_bytes()[:-8000])
    with pytest.raises(UserError, match=r"a.flv: cut short, 1\.\d+ of 2\.\d+ s are there"):
        probe(clip)


def test_damaged_files_end_in_masks_or_one_line(tmp_path, monkeypatch):
    """With another seed than the benchmark's default."""
    originals = [path.read_bytes() for path in media_seeds.write_seeds(tmp_path)]
    worker, kinds = fuzz_media.Worker(tmp_path), Counter()
    monkeypatch.setattr(fuzz_media, "FILES_PER_PROCESS", 10)
    for number in range(24):
        kind, why = worker.outcome(fuzz_media.damaged(originals, np.random.default_rng([9, number])))
        assert kind != "failed", (number, why)
        kinds[kind] += 1
    worker.close()
    assert kinds["answered"] > 3 and kinds["refused"] > 3


def test_damaged_inputs_end_in_an_answer_or_one_line(tmp_path, monkeypatch):
    """The originals are accepted, nothing is left behind; with another seed than the benchmark's default."""
    monkeypatch.setattr("icf_avs.checkpoint.serialization.build_visual", None)  # which `readers` replaces
    table, folder = untrusted_readers.readers(tmp_path), tmp_path / "read"
    folder.mkdir()
    for reader in table:
        for content in reader.originals:
            assert fuzz_tables.read(reader, content, folder) == ("answered", ""), reader.name
    assert os.listdir(folder) == []
    kinds = Counter()
    for number, (kind, why) in fuzz_tables.outcomes(table, 1, range(300), folder):
        assert kind != "failed", (number, why)
        kinds[kind] += 1
    assert kinds["answered"] > 25 and kinds["refused"] > 100
