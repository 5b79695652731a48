"""Result folders, with and without class masks, and outputs of `icf convert`, read back by other libraries."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import srt
import torch
from clip_maker import HEIGHT, WIDTH, make_clip, tone
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import icf_avs.__main__ as cli
from icf_avs.errors import UserError
from icf_avs.inference.segment import segment_video
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.mask_rle import encode
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.output.class_overlay import palette
from icf_avs.output.convert import convert, object_ids
from icf_avs.output.instance_tracking import find_tracks
from icf_avs.output.overlay import inner_edge
from icf_avs.output.result_file import read_segmentation
from icf_avs.provenance import Source
from icf_avs.results import FrameMask, Segmentation
from icf_avs.types import ClipSpec, Prediction

FPS, SECONDS = 4, 2.0
KINDS = ("dog", "brass bell")
DAVIS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


class TwoMovers(MaskPredictor):
    """A dog that moves right and is missing in mask 3, a bell at rest; the last mask is empty."""

    classes, semantic, spec = KINDS, True, ClipSpec()

    def __init__(self) -> None:
        self.seen = 0

    def predict(self, frames, waves):
        logits = torch.full((len(frames), 24, 32), -6.0)
        classes = torch.zeros(len(frames), 3, 24, 32)
        classes[:, 0], classes[:, 1, :12], classes[:, 2, 12:] = 9, 5, 5  # inside a mask, background is no candidate
        for logit in logits:
            if self.seen < 7:
                logit[14:20, 20:26] = 6
            if self.seen < 7 and self.seen != 3:
                logit[3:9, 2 + self.seen : 12 + self.seen] = 6
            self.seen += 1
        return Prediction(logits, torch.tensor([[0.9, 0.6]] * len(frames)), KINDS, classes, ("background", *KINDS))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "a film.mp4", seconds=SECONDS, sound=tone(SECONDS))


@pytest.fixture(scope="module")
def plain(clip):
    return segment_video(TwoMovers(), clip, clip.with_name("plain"), fps=FPS)


@pytest.fixture(scope="module")
def semantic(clip):
    return segment_video(TwoMovers(), clip, clip.with_name("semantic"), fps=FPS, semantic=True)


@pytest.fixture(params=["plain", "semantic"])
def either(request):
    return request.getfixturevalue(request.param)


def made(masks, clip, fps=1.0) -> Segmentation:
    """A segmentation with the given masks, bool [n, H, W]."""
    frames = [
        FrameMask(i, i / fps, (i + 1) / fps, (i + 0.5) / fps, float(mask.mean()), 0.8, (), encode(mask))
        for i, mask in enumerate(masks)
    ]
    return Segmentation(replace(probe(clip), duration=len(masks) / fps), ClipSpec(fps=fps), tuple(frames), None)


def boxes(*corners):
    """Bool [H, W] with rectangles (x, y, width, height)."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for x, y, w, h in corners:
        mask[y : y + h, x : x + w] = True
    return mask


def test_a_saved_result_is_read_back(either):
    again = read_segmentation(either.folder)
    for name in ("masks", "times", "scores", *(["class_ids"] if either.class_names else [])):
        np.testing.assert_allclose(getattr(again, name), getattr(either, name), atol=1e-6)
    assert again.spec == either.spec and again.class_names == either.class_names and again.folder == either.folder
    assert [[word for word, _ in heard] for heard in again.heard] == [["dog", "brass bell"]] * 8
    assert (again.video.width, again.video.height, again.video.path.name) == (WIDTH, HEIGHT, "a film.mp4")


def test_class_ids_and_files_agree(semantic):
    assert sorted(os.listdir(semantic.folder)) == ["classes", "masks", "overlay.mp4", "segmentation.json", "sheet.png"]
    document = json.loads((semantic.folder / "segmentation.json").read_text())
    kinds = [(kind["id"], kind["name"], kind["color"]) for kind in document["categories"]]
    assert kinds == [(1, "dog", [128, 0, 0]), (2, "brass bell", [0, 128, 0])]
    for index, frame in enumerate(document["frames"]):
        with Image.open(semantic.folder / "classes" / f"{index:06d}.png") as stored:
            ids = np.asarray(stored)
            assert stored.mode == "P" and ids.dtype == np.uint8
            np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), palette()[ids])
        np.testing.assert_array_equal(ids, semantic.class_ids[index])
        np.testing.assert_array_equal(ids > 0, semantic.masks[index])
        assert set(np.unique(ids[:60])) <= {0, 1} and set(np.unique(ids[60:])) <= {0, 2}
        rebuilt = np.zeros_like(ids)
        for part in frame["classes"]:
            mask = coco_mask.decode(part["segmentation"])
            rebuilt += np.uint8(part["category_id"]) * mask
            assert part["area"] == pytest.approx(mask.mean(), abs=1e-6) and 0.5 < part["score"] <= 1
        np.testing.assert_array_equal(rebuilt, ids)
    named = [[part["name"] for part in frame["classes"]] for frame in document["frames"]]
    assert sorted(named[0]) == sorted(KINDS) and (named[3], named[7]) == (["brass bell"], [])


def test_without_semantic_there_are_no_class_files_and_legend(plain, semantic):
    assert sorted(os.listdir(plain.folder)) == ["masks", "overlay.mp4", "segmentation.json", "sheet.png"]
    document = json.loads((plain.folder / "segmentation.json").read_text())
    assert "categories" not in document and not any("classes" in frame for frame in document["frames"])
    np.testing.assert_array_equal(plain.masks, semantic.masks)
    sheet, without = (np.asarray(Image.open(result.folder / "sheet.png")) for result in (semantic, plain))
    assert all((sheet[len(without) :] == palette()[index]).all(axis=-1).sum() > 50 for index in (1, 2))


def test_overlay_video_has_the_colours_and_the_legend(clip, semantic):
    (_, old), (_, quiet_old) = read_frames(clip, [0.1, 1.9])
    (_, new), (_, quiet) = read_frames(semantic.folder / "overlay.mp4", [0.1, 1.9])
    assert np.abs(quiet.astype(int) - quiet_old).mean() < 6  # no mask: no legend
    assert (new[:12, :40] < 60).all(axis=-1).mean() > 0.4  # the dark background of the legend
    ids = semantic.class_ids[0]
    inside = (ids == 2) & ~inner_edge(ids, 3)
    expected = (112 / 256 * (palette()[2].astype(int) - old[inside])).mean(0)
    np.testing.assert_allclose((new.astype(int) - old)[inside].mean(0), expected, atol=12)


def copied(result: Segmentation, folder: Path, **changes) -> Path:
    folder.mkdir()
    document = json.loads((result.folder / "segmentation.json").read_text())
    (folder / "segmentation.json").write_text(json.dumps(document | changes))
    return folder


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("frames", [], "masks are missing"), ("version", 99, "version 99"),
     ("video", {"file": "a", "width": 7, "height": HEIGHT, "start": 0, "duration": 2, "fps": 25}, "size of the video")],
)  # fmt: skip
def test_invalid_results_are_refused(plain, tmp_path, key, value, words):
    folder = copied(plain, tmp_path / "a", **{key: value})
    with pytest.raises(UserError, match=words):
        convert(folder, "coco")
    (folder / "segmentation.json").write_text("{")
    with pytest.raises(UserError, match="segment the video again"):
        convert(folder, "srt")


def test_coco_loads_with_pycocotools_and_holds_the_masks(either):
    data = COCO(str(convert(either.folder, "coco")))
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == (list(KINDS) if either.class_names else ["sounding"])
    assert len(data.imgs) == len(either)  # empty masks included
    for picture_id, expected in zip(sorted(data.imgs), either.frames, strict=True):
        info, found = data.imgs[picture_id], np.zeros((HEIGHT, WIDTH), np.uint8)
        assert (info["height"], info["width"]) == found.shape
        for annotation in data.loadAnns(data.getAnnIds(imgIds=picture_id)):
            mask = data.annToMask(annotation)
            (y, x), (bottom, right) = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
            assert annotation["bbox"] == [x, y, right - x + 1, bottom - y + 1]
            assert annotation["area"] == mask.sum() > 0 and 0 < annotation["score"] <= 1  # as results need
            found[mask == 1] = annotation["category_id"]
        np.testing.assert_array_equal(found > 0, expected.mask)
        if either.class_names:
            np.testing.assert_array_equal(found, expected.class_ids)
    assert len(data.loadRes(data.dataset["annotations"]).anns) == len(data.anns)  # changes areas


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


def test_palette_masks_keep_object_indices(either):
    folder = convert(either.folder, "palette")
    names = sorted(os.listdir(folder))
    assert names == sorted(os.listdir(either.folder / "masks"))
    for name, truth in zip(names, either.frames, strict=True):
        with Image.open(folder / name) as png:
            assert png.mode == "P" and png.size == (WIDTH, HEIGHT)
            assert list(zip(*[iter(png.getpalette())] * 3, strict=True))[:5] == DAVIS
            ids = np.asarray(png)
        np.testing.assert_array_equal(ids > 0, truth.mask)
        assert set(np.unique(ids[:60])) <= {0, 1} and set(np.unique(ids[60:])) <= {0, 2}  # the dog is larger
        assert (1 in ids, 2 in ids) == (truth.index < 7 and truth.index != 3, truth.index < 7)


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
            np.testing.assert_array_equal(boxes(region.box), truth[region.index])
            assert region.area == region.mask.sum()
    # at one mask per second, an object may be absent in one mask only
    assert [len(track.regions) for track in find_tracks(made(a, clip, fps=1))] == [2, 2]


def test_too_many_objects_are_refused(clip):
    masks = [boxes(*((x, y, 3, 4) for x in range(i % 2 * 5, 150, 10) for y in range(2, 110, 10))) for i in range(2)]
    with pytest.raises(UserError, match="has 330 objects"):
        next(object_ids(made(masks, clip)))


def test_subtitles_are_read_by_srt(plain, tmp_path):
    lines = list(srt.parse(convert(plain.folder, "srt").read_text(encoding="utf-8")))
    assert [(s.index, s.content, s.start.total_seconds(), s.end.total_seconds()) for s in lines] == [
        (1, "brass bell\ndog", 0, 2)
    ]
    strange = [{"word": "Жук\n\n9\nx", "probability": 0.9}, {"word": "a --> b", "probability": 0.8}]
    frames = json.loads((plain.folder / "segmentation.json").read_text())["frames"]
    frames = [frame | ({"heard": strange} if frame["index"] == 5 else {"heard": [], "area": 0}) for frame in frames]
    folder = copied(plain, tmp_path / "a", frames=frames)
    (line,) = srt.parse(convert(folder, "srt").read_text(encoding="utf-8"))
    assert set(line.content.split("\n")) == {"Жук 9 x", "a --> b"} and line.start.total_seconds() == 1.25


def test_the_command_writes_the_same_files_again(semantic, capsys):
    contents = []
    for _ in range(2):
        assert cli.main(["convert", str(semantic.folder), "--to", "coco", "palette", "tracks", "srt"]) == 0
        printed = capsys.readouterr().out.replace(f"{semantic.folder}{os.sep}", "").splitlines()
        assert printed == ["coco.json and frames/", "objects", "tracks.json", "sounds.srt"]
        contents.append({path: path.read_bytes() for path in semantic.folder.rglob("*") if path.is_file()})
    assert contents[0] == contents[1]  # and no temporary file is left
