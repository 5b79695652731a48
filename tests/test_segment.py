"""From a video file to its result folder, with a small model whose correct masks are known."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clip_maker import HEIGHT, RATE, WIDTH, click, make_clip, number_in, picture, tone
from PIL import Image
from pycocotools import mask as coco_mask

from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.command import find_videos, segment_command
from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.inference.streaming import stream_masks
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.media.audio_windows import AudioWindows, mask_count
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.contact_sheet import caption
from icf_avs.output.convert import convert
from icf_avs.output.subtitles import subtitles
from icf_avs.output.text_summary import tag_lines
from icf_avs.results import FrameMask
from icf_avs.serve.timeline import timeline
from icf_avs.types import ClipSpec, Prediction


class RedWhenLoud(MaskPredictor):
    """Segments red pixels if the audio window is loud; records its inputs."""

    classes = ("noise", "square", "silence")

    def __init__(self, **spec):
        self.spec = ClipSpec(**spec)
        self.calls = []

    def predict(self, frames, waves):
        assert frames.dtype == torch.uint8 and frames.shape[1:] == (self.spec.image_size, self.spec.image_size, 3)
        assert waves.dtype == torch.float32 and waves.shape == (len(frames), self.spec.window)
        assert len(frames) <= self.spec.frames
        self.calls.append((frames, waves))
        red = frames[..., 0].float() - frames[..., 1:].float().mean(-1)
        loud = (waves.abs().amax(1) > 0.1).float()
        logits = torch.where(loud[:, None, None] > 0, (red - 60) / 20, torch.full_like(red, -9))
        return Prediction(logits, torch.stack([loud * 0.5, loud * 0.9, 0.1 * loud], 1), self.classes)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Five seconds with one click at 2.5 s, so only the third mask is not empty."""
    return make_clip(tmp_path_factory.mktemp("clip") / "square.mp4", seconds=5, sound=click(5, at=2.5))


def test_frames_and_windows_follow_the_clip_specification(clip):
    model = RedWhenLoud(frames=2)
    result = segment_video(model, clip)
    assert [len(frames) for frames, _ in model.calls] == [2, 2, 1]
    seen = [image for frames, _ in model.calls for image in frames]
    for index, image in enumerate(seen):
        expected = round(model.spec.frame_time(index) * 25 - 0.5)
        number = number_in(np.asarray(Image.fromarray(image.numpy()).resize((WIDTH, HEIGHT))))
        assert number == expected
    waves = torch.cat([waves for _, waves in model.calls])
    assert [bool(wave.abs().max() > 0.1) for wave in waves] == [False, False, True, False, False]
    assert waves[2].abs().argmax() == pytest.approx(7_800, abs=200)  # the middle of its window
    np.testing.assert_allclose(result.times, [0.5, 1.5, 2.5, 3.5, 4.5], atol=0.01)


def test_masks_scores_and_words(clip):
    result = segment_video(RedWhenLoud(), clip)
    masks = result.masks
    assert masks.shape == (5, HEIGHT, WIDTH) and masks.dtype == bool
    assert [mask.any() for mask in masks] == [False, False, True, False, False]
    truth = picture(62)[..., 0].astype(int) - picture(62)[..., 1] > 60
    overlap = (masks[2] & truth).sum() / (masks[2] | truth).sum()
    assert overlap > 0.85
    assert result.areas[2] == pytest.approx(masks[2].mean(), abs=1e-6)
    assert result.scores[0] == 0 and 0.5 < result.scores[2] <= 1
    assert result.heard[0] == () and [word for word, _ in result.heard[2]] == ["square", "noise", "silence"]
    assert result.folder is None


@pytest.mark.parametrize(
    ("duration", "fps", "count"),
    [(5.0, 1, 5), (5.04, 1, 5), (5.2, 1, 6), (0.3, 1, 1), (0.01, 1, 1), (10, 0.1, 1), (2.0, 4, 8), (2.1, 4, 9)],
)
def test_number_of_masks(duration, fps, count):
    assert mask_count(duration, fps) == count


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("short") / "short.mp4", seconds=1, fps=5, size=(64, 48), sound=tone(1))


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("weight", [0.9, 0.15, 0.1, 0.05, 1e-4, 0.0])
def test_the_tag_of_a_mask_is_in_every_output(tmp_path, short, weight, marked):
    """In JSON, terminal, web page and subtitles, however faint the tag; "nothing" means no mask and no tag."""

    class Model(RedWhenLoud):
        def predict(self, frames, waves):
            logits = torch.full((len(frames), 8, 8), 9.0 if marked else -9.0)
            return Prediction(logits, torch.tensor([[0.0, weight, weight / 9]]).expand(len(frames), -1), self.classes)

    result = segment_video(Model(), short, tmp_path)
    shown = weight > 0 if marked else weight >= 0.05
    frames = json.loads((result.folder / "segmentation.json").read_text())["frames"]
    assert [[item["word"] for item in frame["heard"]][:1] for frame in frames] == [["square"] if shown else []]
    lines, page = list(tag_lines(result.frames)), timeline(result.frames)
    assert len(lines) == 1 and ("square" in lines[0]) == ("square" in page) == shown
    assert ("nothing" in lines[0]) == ("nothing" in page) == (not marked and not shown)
    texts = [words for _, _, words in subtitles(result.frames)]
    assert texts == ([("square" if weight else "[sound]",)] if marked else [("square",)] if weight >= 0.5 else [])


def test_a_mask_without_class_names_is_a_sound_without_a_name(tmp_path, clip):
    class Nameless(RedWhenLoud):
        classes = ()

        def predict(self, frames, waves):
            return Prediction(super().predict(frames, waves).logits, torch.zeros(len(frames), 0), ())

    frames = segment_video(Nameless(), clip, tmp_path).frames
    assert [line[11:] for line in tag_lines(frames)] == ["nothing", "a sound without a name", "nothing"]
    assert subtitles(frames) == [(2.0, 3.0, ("[sound]",))]
    assert "a sound without a name" in timeline(frames)


def test_the_page_shows_every_tag_of_a_mask():
    def frame(index, area, *heard):
        return FrameMask(index, index, index + 1, index, area, 0.9, heard, {"size": [2, 2], "counts": ""})

    many = tuple((f"word{number}", 0.9) for number in range(20))
    assert "door" in timeline([frame(0, 0.1, *many), frame(1, 0.1, ("door", 0.11)), frame(2, 0.0, ("bell", 0.12))])
    assert "bell" not in timeline([frame(0, 0.1, *many), frame(2, 0.0, ("bell", 0.12))])
    assert caption(3, (("a very long name of a musical instrument", 0.12),), 120).startswith("0:03  a very")


@pytest.mark.parametrize("fps", [0.4, 4.0])
def test_other_mask_rates_keep_time(clip, fps):
    model = RedWhenLoud(frames=3)
    frames = [frame for frame, _ in stream_masks(model, probe(clip), fps=fps)]
    assert len(frames) == math.ceil(5 * fps)
    assert frames[-1].end == pytest.approx(5, abs=0.02)
    for frame in frames:
        middle = (frame.index + 0.5) / fps
        heard = middle - 0.4875 < 2.5 < middle + 0.4875
        assert bool(frame.area) == heard, frame.index


def test_a_video_shorter_than_an_interval(tmp_path):
    path = make_clip(tmp_path / "short.mp4", seconds=0.2, sound=tone(0.2))
    result = segment_video(RedWhenLoud(), path)
    assert len(result) == 1 and result.masks.any()


def test_threshold_is_a_probability(clip):
    areas = [segment_video(RedWhenLoud(), clip, threshold=t).areas[2] for t in (0.01, 0.5, 0.99)]
    assert areas[0] > areas[1] > areas[2]


@pytest.mark.parametrize("setting", [{"fps": 0}, {"fps": -1}, {"fps": math.nan}, {"fps": math.inf}, {"threshold": 1.0}])
def test_unusable_settings(clip, setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        segment_video(RedWhenLoud(), clip, **setting)


def test_result_files_are_consistent(clip, tmp_path):
    told = []
    result = segment_video(
        RedWhenLoud(), clip, tmp_path / "out", progress=lambda done, total: told.append(done / total), checkpoint="tiny"
    )
    folder = tmp_path / "out" / "square"
    assert result.folder == folder
    assert sorted(os.listdir(folder)) == ["masks", "overlay.mp4", "segmentation.json", "sheet.png"]
    assert os.listdir(tmp_path / "out") == ["square"]
    assert told == sorted(told) and told[-1] == 1
    document = json.loads((folder / "segmentation.json").read_text())
    facts = {"width": WIDTH, "height": HEIGHT, "start": 0, "duration": 5, "fps": 25}
    assert document["video"] == {"file": "square.mp4", **facts}
    assert document["checkpoint"] == "tiny" and document["clip"]["frames"] == 5 and len(document["frames"]) == 5
    for index, frame in enumerate(document["frames"]):
        stored = np.asarray(Image.open(folder / "masks" / f"{index:06d}.png"))
        assert set(np.unique(stored)) <= {0, 255}
        np.testing.assert_array_equal(coco_mask.decode(frame["segmentation"]) * 255, stored)
        np.testing.assert_array_equal(result.masks[index] * 255, stored)
        assert (frame["start"], frame["end"]) == (index, pytest.approx(index + 1, abs=0.01))
    assert document["frames"][2]["heard"][0] == {"word": "square", "probability": 0.9}


def test_the_overlay_shows_each_mask_in_its_interval_and_has_audio(clip, tmp_path):
    folder = segment_video(RedWhenLoud(), clip, tmp_path).folder
    info, source = probe(folder / "overlay.mp4"), probe(clip)
    assert info.audio_codec == "aac"
    assert info.duration == pytest.approx(source.duration, abs=0.02)
    assert info.frame_rate == pytest.approx(25, abs=0.1)
    mask = np.asarray(Image.open(folder / "masks" / "000002.png")) > 0
    times = [1.97, 2.01, 2.5, 2.99, 3.01]
    for time, image in read_frames(info, times):
        number = int(time * 25 + 1e-6)
        assert number_in(image) == number
        changed = np.abs(image.astype(int) - picture(number)).sum(axis=-1) > 150
        assert changed[mask].mean() > 0.2 if 2 <= time < 3 else changed.mean() < 0.01
        assert changed[~mask].mean() < 0.02
    wave = AudioWindows(info).read(0, 80_000)
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(2.5, abs=0.02)


def test_videos_of_one_name_and_foreign_folders(tmp_path, clip):
    out = tmp_path / "out"
    (out / "square_2").mkdir(parents=True)
    (out / "square_2" / "mine.txt").write_text("keep")
    first = segment_video(RedWhenLoud(), clip, out).folder
    second = segment_video(RedWhenLoud(), clip, out, reserved_dirs=[first]).folder
    again = segment_video(RedWhenLoud(), clip, out).folder
    assert [path.name for path in (first, second, again)] == ["square", "square_3", "square"]
    assert (out / "square_2" / "mine.txt").read_text() == "keep"


def test_a_result_is_replaced_only_by_the_same_video(tmp_path, clip):
    """Videos of one name are told apart by content, and recognized by path or content; the folder records both."""
    one, two = tmp_path / "one" / "x.mp4", tmp_path / "two" / "x.mp4"
    for path in (one, two):
        path.parent.mkdir()
    shutil.copy(clip, one)
    make_clip(two, seconds=3, sound=tone(3))
    out = tmp_path / "out"

    def segmented(path):
        return segment_video(RedWhenLoud(), path, out).folder.name

    assert [segmented(path) for path in (one, two, one, two)] == ["x", "x_2", "x", "x_2"]
    facts = json.loads((out / "x" / "segmentation.json").read_text())["source"]
    digest = hashlib.sha256(one.read_bytes()).hexdigest()
    assert facts == {"path": str(one), "bytes": one.stat().st_size, "sha256": digest}
    (tmp_path / "moved").mkdir()
    assert segmented(one.rename(tmp_path / "moved" / "x.mp4")) == "x"
    make_clip(two, seconds=2, sound=tone(2))  # cut again
    assert segmented(two) == "x_2"
    size = two.stat().st_size
    other = two.read_bytes()[:-1] + b"?"  # same size and time, other content
    (tmp_path / "one" / "x.mp4").write_bytes(other)
    os.utime(one, ns=(two.stat().st_atime_ns, two.stat().st_mtime_ns))
    assert one.stat().st_size == size and segmented(one) == "x_3"
    (out / "x" / "segmentation.json").write_text('{"video": {"file": "x.mp4"}}')  # without its source
    assert segmented(tmp_path / "moved" / "x.mp4") == "x_4"


def test_concurrent_videos_of_one_name_get_separate_folders(tmp_path, clip):
    """The second starts and ends while the first is still running."""
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = tmp_path / "a" / "x.mp4", make_clip(tmp_path / "b" / "x.mp4", seconds=2, sound=tone(2))
    shutil.copy(clip, first)

    class Slow(RedWhenLoud):
        def predict(self, frames, waves):
            if not self.calls:
                assert segment_video(RedWhenLoud(), second, tmp_path / "out").folder.name == "x"
            return super().predict(frames, waves)

    assert segment_video(Slow(), first, tmp_path / "out").folder.name == "x_2"
    assert [len(list((tmp_path / "out" / name / "masks").iterdir())) for name in ("x", "x_2")] == [2, 5]
    assert sorted(os.listdir(tmp_path / "out")) == ["x", "x_2"]


@pytest.mark.parametrize("name", ["2024-05-01T10:30", "take:2", "pipe:1", "-", "-y", "100%d", "a|b", "concat:a"])
def test_names_that_ffmpeg_would_misinterpret(tmp_path, clip, monkeypatch, name):
    """Relative paths of the output folder and of the video."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, f"{name}.mp4")
    folder = segment_video(RedWhenLoud(), f"{name}.mp4", name).folder
    assert folder == Path(name) / name and probe(folder / "overlay.mp4").duration == pytest.approx(5, abs=0.1)
    assert [path.name for path in (convert(folder, to) for to in ("srt", "coco"))] == ["sounds.srt", "coco.json"]
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name}.mp4"])


def test_an_earlier_result_survives_a_failure(tmp_path, clip):
    class Failing(RedWhenLoud):
        def predict(self, frames, waves):
            if self.calls:
                raise RuntimeError("in the middle")
            return super().predict(frames, waves)

    folder = segment_video(RedWhenLoud(), clip, tmp_path).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(RuntimeError):
        segment_video(Failing(frames=2), clip, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert os.listdir(tmp_path) == ["square"]


def test_a_damaged_video_leaves_no_files(tmp_path):
    """A few damaged packets are skipped (test_awkward_media.py); here two thirds of the frames are damaged."""
    path = make_clip(tmp_path / "broken.mkv", seconds=3, sound=tone(3))
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for position, size in packets[len(packets) // 3 :]:
        end = position + 4 + size  # after the block header
        data[end - size : end] = bytes(size)
    path.write_bytes(data)
    with pytest.raises(UserError, match="more than half of its video"):
        segment_video(RedWhenLoud(frames=1), path, tmp_path / "new" / "out")
    assert os.listdir(tmp_path) == ["broken.mkv"]


def test_unwritable_output_folders(tmp_path, clip):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="is a file"):
        segment_video(RedWhenLoud(), clip, file)
    with pytest.raises(UserError, match="cannot be written"):
        segment_video(RedWhenLoud(), clip, file / "below")
    if os.path.isdir("/proc"):
        with pytest.raises(UserError, match="cannot be written"):
            segment_video(RedWhenLoud(), clip, "/proc/none")
    if os.geteuid():  # the superuser may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="cannot be written"):
            segment_video(RedWhenLoud(), clip, tmp_path / "locked")


@pytest.mark.parametrize("limit", [300, 2_000, 20_000])
def test_a_full_disk_leaves_no_files(tmp_path, clip, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # as on a full disk, writes fail from some byte on
    try:
        with pytest.raises(UserError, match="cannot be written"):
            segment_video(RedWhenLoud(), clip, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_the_command_continues_after_a_bad_video(tmp_path, clip, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda checkpoint, device="auto": Segmenter(RedWhenLoud(), "tiny"))
    with pytest.raises(UserError, match="1 of 3"):
        segment_command([clip, tmp_path / "none.mp4", clip], tmp_path / "out", None, 1.0, 0.5)
    output = capsys.readouterr()
    assert output.out.count("5 masks (1 a second), 1 with something segmented ->") == 2
    assert "none.mp4: no such file" in output.err
    assert sorted(os.listdir(tmp_path / "out")) == ["square", "square_2"]


def test_a_missing_video_is_reported_before_the_model_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=r"none\.mp4: no such file"):
        segment_command([tmp_path / "none.mp4"], tmp_path / "out", None, 1.0, 0.5)


def test_folders_and_patterns_expand_to_videos(tmp_path):
    for name in ("b.MP4", "a.mkv", "._a.mkv", "notes.txt", "[1].mp4"):
        (tmp_path / name).touch()
    a, b, one = (tmp_path / name for name in ("a.mkv", "b.MP4", "[1].mp4"))
    assert find_videos([tmp_path]) == [one, a, b] == sorted([one, a, b])
    assert find_videos([tmp_path / "*.mkv", one]) == [a, one]
    (tmp_path / "empty").mkdir()
    for none in ("empty", "*.mov"):
        with pytest.raises(UserError, match="no video there"):
            find_videos([tmp_path / none])


def test_audio_longer_than_the_video_stream(tmp_path):
    """The last frame is shown and segmented until the audio ends."""
    path = make_clip(tmp_path / "a.mp4", seconds=1, sound=tone(2))
    with av.open(str(path), "r") as container:
        longest = container.duration / av.time_base
    result = segment_video(RedWhenLoud(), path, tmp_path / "out")
    assert len(result) == 2
    assert result.video.duration == pytest.approx(longest, abs=0.05)
    with av.open(str(result.folder / "overlay.mp4")) as container:
        for stream in (*container.streams.video, *container.streams.audio):
            assert float(stream.duration * stream.time_base) == pytest.approx(longest, abs=0.07)
        assert container.streams.audio[0].rate == RATE
