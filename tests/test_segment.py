"""From a video file to its result folder, with a small model whose correct masks are known."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_maker import HEIGHT, WIDTH, click, make_clip, number_in, picture, tone
from PIL import Image
from pycocotools import mask as coco_mask
from witness import Witness

from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.command import find_videos, segment_command
from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.inference.streaming import stream_masks
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.convert import convert
from icf_avs.output.subtitles import subtitles
from icf_avs.output.text_summary import tag_lines
from icf_avs.serve.timeline import timeline_html
from icf_avs.types import Prediction


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Five seconds with one click at 2.5 s, so only the third mask is not empty."""
    return make_clip(tmp_path_factory.mktemp("clip") / "square.mp4", seconds=5, sound=click(5, at=2.5))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("short") / "square.mp4", seconds=1, sound=tone(1))


def test_inputs_masks_scores_and_words_of_a_clip(clip):
    model = Witness(frames=2, image_size=224)
    result = segment_video(model, clip)
    assert model.counts == [2, 2, 1]
    for index, image in enumerate(model.frames):
        number = number_in(np.asarray(Image.fromarray(image).resize((WIDTH, HEIGHT))))
        assert number == round(model.spec.frame_time(index) * 25 - 0.5)
    assert [np.abs(wave).max() > 0.1 for wave in model.waveforms] == [False, False, True, False, False]
    assert np.abs(model.waveforms[2]).argmax() == pytest.approx(7_800, abs=200)  # the middle of its window
    np.testing.assert_allclose(result.times, [0.5, 1.5, 2.5, 3.5, 4.5], atol=0.01)

    masks, truth = result.masks, picture(62).mean(axis=-1) > 128
    assert masks.shape == (5, HEIGHT, WIDTH) and masks.dtype == bool and result.folder is None
    assert [mask.any() for mask in masks] == [False, False, True, False, False]
    assert (masks[2] & truth).sum() / (masks[2] | truth).sum() > 0.85
    assert result.areas[2] == pytest.approx(masks[2].mean(), abs=1e-6)
    assert result.scores[0] == 0 and 0.5 < result.scores[2] <= 1
    assert result.heard[0] == () and [word for word, _ in result.heard[2]] == ["square", "noise", "silence"]
    more, fewer = (segment_video(Witness(image_size=224), clip, threshold=t).areas[2] for t in (0.01, 0.99))
    assert more > result.areas[2] > fewer


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("weight", [0.9, 0.1, 0.05, 1e-4, 0.0])
def test_the_tag_of_a_mask_is_in_every_output(tmp_path, weight, marked):
    """In JSON, terminal, web page and subtitles, however faint the tag; "nothing" means no mask and no tag."""

    class Model(Witness):
        def predict(self, frames, waves):
            logits = torch.full((len(frames), 8, 8), 9.0 if marked else -9.0)
            return Prediction(logits, torch.tensor([[0.0, weight, weight / 9]]).expand(len(frames), -1), self.classes)

    path = make_clip(tmp_path / "short.mp4", seconds=1, fps=5, size=(64, 48), sound=tone(1))
    result = segment_video(Model(), path, tmp_path)
    shown = weight > 0 if marked else weight >= 0.05
    (frame,) = json.loads((result.folder / "segmentation.json").read_text())["frames"]
    assert [item["word"] for item in frame["heard"]][:1] == (["square"] if shown else [])
    for text in (*tag_lines(result.frames), timeline_html(result.frames)):
        assert ("square" in text) == shown and ("nothing" in text) == (not marked and not shown)
        assert ("a sound without a name" in text) == (marked and not shown)
    texts = [words for _, _, words in subtitles(result.frames)]
    assert texts == ([("square" if weight else "[sound]",)] if marked else [("square",)] if weight >= 0.5 else [])


@pytest.mark.parametrize("fps", [0.4, 4.0])
def test_other_mask_rates_keep_time(clip, fps):
    frames = [frame for frame, _ in stream_masks(Witness(frames=3), probe(clip), fps=fps)]
    assert len(frames) == math.ceil(5 * fps) and frames[-1].end == pytest.approx(5, abs=0.02)
    for frame in frames:
        assert bool(frame.area) == (abs((frame.index + 0.5) / fps - 2.5) < 0.4875), frame.index


def test_result_files_are_consistent_and_the_overlay_keeps_time(clip, tmp_path):
    told, out = [], tmp_path / "out"
    settings = {"progress": lambda done, total: told.append(done / total), "checkpoint": "tiny"}
    result = segment_video(Witness(), clip, out, **settings)
    folder = out / "square"
    assert result.folder == folder and os.listdir(out) == ["square"]
    assert sorted(os.listdir(folder)) == ["masks", "overlay.mp4", "segmentation.json", "sheet.png"]
    assert told == sorted(told) and told[-1] == 1
    document = json.loads((folder / "segmentation.json").read_text())
    facts = {"width": WIDTH, "height": HEIGHT, "start": 0, "duration": 5, "fps": 25}
    assert document["video"] == {"file": "square.mp4", **facts}
    assert document["checkpoint"] == "tiny" and document["clip"]["frames"] == 5 and len(document["frames"]) == 5
    for index, frame in enumerate(document["frames"]):
        stored = np.asarray(Image.open(folder / "masks" / f"{index:06d}.png"))
        np.testing.assert_array_equal(coco_mask.decode(frame["segmentation"]) * 255, stored)
        np.testing.assert_array_equal(result.masks[index] * 255, stored)
        assert (frame["start"], frame["end"]) == (index, pytest.approx(index + 1, abs=0.01))
    assert document["frames"][2]["heard"][0] == {"word": "square", "probability": 0.9}

    info, mask = probe(folder / "overlay.mp4"), result.masks[2]
    assert info.audio_codec == "aac" and info.duration == pytest.approx(probe(clip).duration, abs=0.02)
    assert info.frame_rate == pytest.approx(25, abs=0.1)
    for time, image in read_frames(info, [1.97, 2.01, 2.5, 2.99, 3.01]):
        number = int(time * 25 + 1e-6)
        assert number_in(image) == number
        changed = np.abs(image.astype(int) - picture(number)).sum(axis=-1) > 150
        assert changed[mask].mean() > 0.2 if 2 <= time < 3 else changed.mean() < 0.01
        assert changed[~mask].mean() < 0.02
    wave = AudioWindows(info).read(0, 80_000)
    assert np.abs(wave).argmax() / 16_000 == pytest.approx(2.5, abs=0.02)


def test_a_result_is_replaced_only_by_the_same_video(tmp_path, short):
    """Videos of one name are told apart by content, and recognized by path or content; the folder records both."""
    out, one, two, moved = tmp_path / "out", *(tmp_path / name / "x.mp4" for name in ("one", "two", "moved"))
    for path in (one, two, moved, out / "x_2" / "mine.txt"):
        path.parent.mkdir(parents=True)
    (out / "x_2" / "mine.txt").write_text("keep")
    shutil.copy(short, one)
    make_clip(two, seconds=0.8, sound=tone(0.8))

    def segmented(path, **settings):
        return segment_video(Witness(), path, out, **settings).folder.name

    assert [segmented(path) for path in (one, two, one, two)] == ["x", "x_3", "x", "x_3"]
    facts = json.loads((out / "x" / "segmentation.json").read_text())["source"]
    digest = hashlib.sha256(one.read_bytes()).hexdigest()
    assert facts == {"path": str(one), "bytes": one.stat().st_size, "sha256": digest}
    assert segmented(one.rename(moved)) == "x"
    make_clip(two, seconds=0.6, sound=tone(0.6))  # cut again
    assert segmented(two) == "x_3"
    one.write_bytes(two.read_bytes()[:-1] + b"?")  # same size and time, other content
    os.utime(one, ns=(two.stat().st_atime_ns, two.stat().st_mtime_ns))
    assert segmented(one) == "x_4"
    (out / "x" / "segmentation.json").write_text('{"video": {"file": "x.mp4"}}')  # without its source
    assert segmented(moved) == "x_5"
    assert segmented(moved, reserved_dirs=[out / "x_5"]) == "x_6"  # in one call, none replaces another
    assert (out / "x_2" / "mine.txt").read_text() == "keep"


def test_concurrent_videos_of_one_name_get_separate_folders(tmp_path, clip, short):
    """The second starts and ends while the first is still running."""
    names, model = [], Witness()
    model.begin = lambda: names.append(segment_video(Witness(), short, tmp_path).folder.name)
    names.append(segment_video(model, clip, tmp_path).folder.name)
    assert names == ["square", "square_2"] == sorted(os.listdir(tmp_path))
    assert [len(os.listdir(tmp_path / name / "masks")) for name in names] == [1, 5]


@pytest.mark.parametrize("name", ["pipe:1", "-", "-y", "100%d", "a|b", "concat:a"])
def test_names_that_ffmpeg_would_misinterpret(tmp_path, short, monkeypatch, name):
    """Relative paths of the output folder and of the video."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(short, f"{name}.mp4")
    folder = segment_video(Witness(), f"{name}.mp4", name).folder
    assert folder == Path(name) / name and probe(folder / "overlay.mp4").duration == pytest.approx(1, abs=0.1)
    assert [path.name for path in (convert(folder, to) for to in ("srt", "coco"))] == ["sounds.srt", "coco.json"]
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"{name}.mp4"])


def test_an_earlier_result_survives_a_failure(tmp_path, clip):
    folder = segment_video(Witness(), clip, tmp_path).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    model = Witness(frames=2)
    model.begin = lambda: 1 / (1 - len(model.counts))  # fails in the middle
    with pytest.raises(ZeroDivisionError):
        segment_video(model, clip, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert os.listdir(tmp_path) == ["square"]


@pytest.mark.parametrize("limit", [300, 2_000, 20_000])
def test_a_full_disk_leaves_no_files(tmp_path, clip, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # as on a full disk, writes fail from some byte on
    try:
        with pytest.raises(UserError, match="cannot be written"):
            segment_video(Witness(), clip, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_the_command_continues_after_a_bad_video(tmp_path, clip, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "load", lambda checkpoint, device="auto": Segmenter(Witness(), "tiny"))
    with pytest.raises(UserError, match="1 of 3"):
        segment_command([clip, tmp_path / "none.mp4", clip], tmp_path / "out", None, 1.0, 0.5)
    output = capsys.readouterr()
    assert output.out.count("5 masks (1 a second), 1 with something segmented ->") == 2
    assert "none.mp4: no such file" in output.err
    assert sorted(os.listdir(tmp_path / "out")) == ["square", "square_2"]
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
