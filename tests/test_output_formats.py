"""Outputs of `icf convert`, read back by the libraries of each format."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import srt
import torch
from clip_maker import HEIGHT, WIDTH, make_clip, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import icf_avs.__main__ as cli
from icf_avs.errors import UserError
from icf_avs.inference.segment import segment_video
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.mask_rle import check_run_lengths, decode, encode
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.convert import convert, object_ids
from icf_avs.output.instance_tracking import find_tracks
from icf_avs.output.result_file import read_segmentation
from icf_avs.output.subtitles import APPEARS_AT, BREAK, DISAPPEARS_BELOW, SHORTEST, subtitles
from icf_avs.provenance import Source
from icf_avs.results import FrameMask, Segmentation
from icf_avs.types import ClipSpec, Prediction

FPS, SECONDS = 4, 2.0
KINDS = ("dog", "brass bell")
DAVIS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


class TwoMovers(MaskPredictor):
    """A dog that moves right and is missing in mask 3, a bell at rest; the last mask is empty."""

    classes, semantic = KINDS, True

    def __init__(self) -> None:
        self.spec, self.seen = ClipSpec(), 0

    def predict(self, frames, waves):
        logits = torch.full((len(frames), 24, 32), -6.0)
        classes = torch.zeros(len(frames), 3, 24, 32)
        classes[:, 1, :12], classes[:, 2, 12:] = 5, 5
        for logit in logits:
            if self.seen < 7:
                logit[14:20, 20:26] = 6
            if self.seen < 7 and self.seen != 3:
                logit[3:9, 2 + self.seen : 12 + self.seen] = 6
            self.seen += 1
        heard = torch.tensor([[0.9, 0.6]] * len(frames))
        return Prediction(logits, heard, KINDS, classes, ("background", *KINDS))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "a film.mp4", seconds=SECONDS, sound=tone(SECONDS))


@pytest.fixture(scope="module")
def plain(clip, tmp_path_factory):
    return segment_video(TwoMovers(), clip, tmp_path_factory.mktemp("plain"), fps=FPS)


@pytest.fixture(scope="module")
def semantic(clip, tmp_path_factory):
    return segment_video(TwoMovers(), clip, tmp_path_factory.mktemp("semantic"), fps=FPS, semantic=True)


@pytest.fixture(params=["plain", "semantic"])
def either(request):
    return request.getfixturevalue(request.param)


def made(masks, clip, fps=1.0, heard=()) -> Segmentation:
    """A segmentation with the given masks, bool [n, H, W]."""
    frames = [
        FrameMask(i, i / fps, (i + 1) / fps, (i + 0.5) / fps, float(mask.mean()), 0.8, tuple(heard), encode(mask))
        for i, mask in enumerate(masks)
    ]
    return Segmentation(replace(probe(clip), duration=len(masks) / fps), ClipSpec(fps=fps), tuple(frames), None)


def boxes(*corners, size=(HEIGHT, WIDTH)):
    """Bool [H, W] with rectangles (x, y, width, height)."""
    mask = np.zeros(size, bool)
    for x, y, w, h in corners:
        mask[y : y + h, x : x + w] = True
    return mask


def test_a_saved_result_is_read_back(either):
    again = read_segmentation(either.folder)
    np.testing.assert_array_equal(again.masks, either.masks)
    np.testing.assert_allclose(again.times, either.times, atol=1e-6)
    np.testing.assert_allclose(again.scores, either.scores, atol=1e-6)
    assert again.spec == either.spec and again.class_names == either.class_names and again.folder == either.folder
    assert [[word for word, _ in heard] for heard in again.heard] == [["dog", "brass bell"]] * 8
    assert (again.video.width, again.video.height, again.video.path.name) == (WIDTH, HEIGHT, "a film.mp4")
    if either.class_names:
        np.testing.assert_array_equal(again.class_ids, either.class_ids)


def copied(result: Segmentation, folder: Path, **changes) -> Path:
    folder.mkdir()
    document = json.loads((result.folder / "segmentation.json").read_text())
    (folder / "segmentation.json").write_text(json.dumps(document | changes))
    return folder


def test_invalid_results_are_refused(plain, tmp_path):
    with pytest.raises(UserError, match=r"no segmentation\.json"):
        convert(tmp_path / "nowhere", "srt")
    broken = copied(plain, tmp_path / "a", frames=[])
    with pytest.raises(UserError, match="masks are missing"):
        convert(broken, "srt")
    with pytest.raises(UserError, match="version 99"):
        convert(copied(plain, tmp_path / "b", version=99), "coco")
    other = json.loads((plain.folder / "segmentation.json").read_text())["video"] | {"width": 7}
    with pytest.raises(UserError, match="size of the video"):
        convert(copied(plain, tmp_path / "c", video=other), "coco")
    (broken / "segmentation.json").write_text("{")
    with pytest.raises(UserError, match="segment the video again"):
        convert(broken, "srt")


SIDES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(SIDES.flatmap(lambda size: arrays(bool, size)))
@settings(deadline=None)
def test_valid_run_lengths_pass_the_check(mask):
    check_run_lengths(encode(mask), *mask.shape)


@given(SIDES, st.data())
@settings(deadline=None, max_examples=300)
def test_run_lengths_that_pass_the_check_are_canonical(size, data):
    """Invalid run lengths make pycocotools write out of bounds, so files with them must be rejected."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    text = encode(np.kron(rng.random((size[0] // 4 + 1, size[1])) < 0.5, np.ones((4, 1)))[: size[0]])["counts"]
    at, code = data.draw(st.integers(0, len(text) - 1)), chr(data.draw(st.integers(40, 120)))
    counts = text[:at] + data.draw(st.sampled_from([code, "", code + "0"])) + text[at + 1 :]
    changed = {"size": list(size), "counts": counts}
    try:
        check_run_lengths(changed, *size)
    except ValueError:
        return
    np.testing.assert_array_equal(decode(encode(decode(changed))), decode(changed))
    assert decode(changed).shape == size


@pytest.mark.parametrize("counts", ["", "0", "P", "é", "oooooooooo0", "0" * 50])
def test_invalid_run_lengths_are_refused(counts):
    with pytest.raises(ValueError, match="broken"):
        check_run_lengths({"size": [6, 5], "counts": counts}, 6, 5)


def test_coco_loads_with_pycocotools_and_holds_the_masks(either):
    data = COCO(str(convert(either.folder, "coco")))
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == (list(KINDS) if either.class_names else ["sounding"])
    assert len(data.imgs) == len(either)  # empty masks included
    for picture_id, expected in zip(sorted(data.imgs), either.frames, strict=True):
        info = data.imgs[picture_id]
        png = np.asarray(Image.open(either.folder / "masks" / info["file_name"].replace("jpg", "png")))
        assert png.shape == (info["height"], info["width"])
        found = np.zeros(png.shape, np.uint8)
        for annotation in data.loadAnns(data.getAnnIds(imgIds=picture_id)):
            mask = data.annToMask(annotation)
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert annotation["area"] == mask.sum() > 0
            found[mask == 1] = annotation["category_id"]
        np.testing.assert_array_equal(found > 0, png == 255)
        if either.class_names:
            np.testing.assert_array_equal(found, expected.class_ids)


def test_coco_has_frames_if_the_video_is_unchanged(plain, clip, tmp_path, caplog):
    caplog.set_level("INFO", "icf_avs")
    source, times = {"path": str(clip), **Source(clip).content}, (plain.spec.frame_time(i) for i in range(len(plain)))
    folder = copied(plain, tmp_path / "a", source=source)
    names = [image["file_name"] for image in json.loads(convert(folder, "coco").read_text())["images"]]
    assert sorted(os.listdir(folder / "frames")) == names
    for name, (_, frame) in zip(names, read_frames(probe(clip), times), strict=True):
        assert np.abs(np.asarray(Image.open(folder / "frames" / name)).astype(int) - frame).mean() < 3
    moved = copied(plain, tmp_path / "b", source=source | {"sha256": "0"})
    assert convert(moved, "coco").exists() and not (moved / "frames").exists()
    assert "without frames/" in caplog.text


def test_coco_annotations_load_as_results(semantic, capsys):
    data = COCO(str(convert(semantic.folder, "coco")))
    evaluation = COCOeval(data, data.loadRes(data.dataset["annotations"]), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1  # compared with itself


def test_palette_masks_keep_object_indices(either):
    folder = convert(either.folder, "palette")
    names = sorted(os.listdir(folder))
    assert names == sorted(os.listdir(either.folder / "masks"))
    for index, name in enumerate(names):
        with Image.open(folder / name) as png:
            assert png.mode == "P" and png.size == (WIDTH, HEIGHT)
            assert list(zip(*[iter(png.getpalette())] * 3, strict=True))[:5] == DAVIS
            ids = np.asarray(png)
        np.testing.assert_array_equal(ids > 0, either.frames[index].mask)
        assert set(np.unique(ids[:60])) <= {0, 1} and set(np.unique(ids[60:])) <= {0, 2}  # the dog is larger
        assert (1 in ids, 2 in ids) == (index < 7 and index != 3, index < 7)


def test_objects_are_linked_by_overlap(clip):
    a = [boxes((5 + 5 * i, 10, 40, 30)) for i in range(6)]
    a[2] = a[3] = boxes()  # absent in two masks
    b = [boxes((100 - 8 * i, 70, 30, 30)) for i in range(6)]
    specks = boxes((0, 0, 2, 2))
    tracks = find_tracks(made([x | y | specks for x, y in zip(a, b, strict=True)], clip, fps=2))
    assert [[region.index for region in track.regions] for track in tracks] == [[0, 1, 4, 5], [0, 1, 2, 3, 4, 5]]
    for track, truth in zip(tracks, (a, b), strict=True):
        for region in track.regions:
            np.testing.assert_array_equal(region.mask, truth[region.index])
            x, y, w, h = region.box
            np.testing.assert_array_equal(boxes(region.box), truth[region.index])
            assert region.area == w * h
    # at one mask per second, an object may be absent in one mask only
    assert [len(track.regions) for track in find_tracks(made(a, clip, fps=1))] == [2, 2]


def test_linking_is_the_best_one_to_one_matching(clip):
    """The new right region overlaps the large old one (0.38) slightly more than the new left region does (0.37)."""
    before = boxes((20, 20, 60, 20), (84, 20, 15, 20))
    after = boxes((20, 20, 22, 20), (50, 20, 49, 20), (130, 90, 20, 20))
    tracks = find_tracks(made([before, after], clip))
    assert [[region.box[0] for region in track.regions] for track in tracks] == [[20, 20], [84, 50], [130]]
    touching = boxes((10, 10, 20, 20), (30, 30, 20, 20))  # corners: one region
    assert [len(track.regions) for track in find_tracks(made([touching], clip))] == [1]


def test_tracks_do_not_change_class(semantic):
    swapped = [
        replace(frame, classes=tuple(replace(part, category_id=3 - part.category_id) for part in frame.classes))
        for frame in semantic.frames[:2]
    ]
    result = replace(semantic, frames=(*swapped, *(replace(f, index=i + 2) for i, f in enumerate(semantic.frames[:2]))))
    assert len(find_tracks(result)) == 4
    assert len(find_tracks(replace(semantic, frames=semantic.frames[:2]))) == 2


def test_too_many_objects_are_refused(clip):
    masks = [boxes(*((x, y, 3, 4) for x in range(i % 2 * 5, 150, 10) for y in range(2, 110, 10))) for i in range(2)]
    with pytest.raises(UserError, match="has 330 objects"):
        next(object_ids(made(masks, clip)))


def test_a_missing_library_is_named(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"pip install 'icf-avs\[track\]'"):
        convert(plain.folder, "tracks")


def heard(rows, fps=1.0):
    """Empty masks with heard words, from rows of {word: probability}."""
    empty = encode(boxes())
    return [FrameMask(i, i / fps, (i + 1) / fps, 0, 0, 0, tuple(row.items()), empty) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "fps", "expected"),
    [
        # hysteresis: appears at one probability, disappears at a lower one
        ([{"dog": p} for p in (0.4, 0.6, 0.35, 0.45, 0.25, 0.45, 0.5)], 1, [(1, 4, ("dog",)), (6, 7, ("dog",))]),
        # simultaneous words share one subtitle
        ([{"dog": 0.9}, {"dog": 0.9, "bell": 0.9}, {"bell": 0.9}, {}, {"bell": 0.9}], 1,
         [(0, 1, ("dog",)), (1, 2, ("dog", "bell")), (2, 3, ("bell",)), (4, 5, ("bell",))]),
        # short gaps are closed and short lines are lengthened
        ([{"dog": 0.9}, {}, {}, {"dog": 0.9}, *[{}] * 20, {"dog": 0.9}, *[{}] * 10, {"dog": 0.9}], 10,
         [(0, 0.5, ("dog",)), (2.4, 2.9, ("dog",)), (3.5, 3.6, ("dog",))]),
    ],
)  # fmt: skip
def test_subtitle_intervals(rows, fps, expected):
    found = subtitles(heard(rows, fps))
    assert [(round(start, 3), round(end, 3), words) for start, end, words in found] == expected


@given(st.lists(st.fixed_dictionaries({}, optional={w: st.floats(0.2, 1) for w in "abc"}), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_subtitles_do_not_flicker(rows):
    frames = heard(rows, fps=8)
    found = subtitles(frames)
    assert all(a.end <= b.start for a, b in pairwise(found)) and all(a.start < a.end for a in found)
    for word in "abc":
        loud = [frame.start for frame in frames if dict(frame.heard).get(word, 0) >= APPEARS_AT]
        runs = []
        for start, end, words in found:
            if word in words and runs and runs[-1][1] == start:
                runs[-1][1] = end
            elif word in words:
                runs.append([start, end])
        assert all(any(a <= time < b for a, b in runs) for time in loud)
        assert all(b - a >= SHORTEST or b == frames[-1].end for a, b in runs)
        assert all(d - a >= BREAK - SHORTEST for (a, _), (d, _) in pairwise(runs))
        assert DISAPPEARS_BELOW < APPEARS_AT and (loud or not runs)


def test_subtitles_are_read_by_srt(plain, tmp_path):
    lines = list(srt.parse(convert(plain.folder, "srt").read_text(encoding="utf-8")))
    assert [(s.index, s.content, s.start.total_seconds(), s.end.total_seconds()) for s in lines] == [
        (1, "brass bell\ndog", 0, 2)
    ]
    strange = [{"word": "Жук\n\n9\nx", "probability": 0.9}, {"word": "a --> b", "probability": 0.8}]
    frames, silent = json.loads((plain.folder / "segmentation.json").read_text())["frames"], {"heard": [], "area": 0}
    folder = copied(
        plain, tmp_path / "a", frames=[f | ({"heard": strange} if f["index"] == 5 else silent) for f in frames]
    )
    (line,) = srt.parse(convert(folder, "srt").read_text(encoding="utf-8"))
    assert set(line.content.split("\n")) == {"Жук 9 x", "a --> b"} and line.start.total_seconds() == 1.25
    folder = copied(plain, tmp_path / "b", frames=[frame | silent for frame in frames])
    assert list(srt.parse(convert(folder, "srt").read_text())) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_writes_the_same_files_again(semantic, capsys):
    kinds = ["coco", "palette", "tracks", "srt"]
    assert cli.main(["convert", str(semantic.folder), "--to", *kinds]) == 0
    printed = capsys.readouterr().out.replace(f"{semantic.folder}{os.sep}", "").splitlines()
    assert printed == ["coco.json and frames/", "objects", "tracks.json", "sounds.srt"]
    first = contents(semantic.folder)
    assert cli.main(["convert", str(semantic.folder), "--to", *kinds]) == 0
    second = contents(semantic.folder)
    assert first.keys() == second.keys()  # no temporary file is left
    assert [name for name in first if first[name] != second[name]] == []
