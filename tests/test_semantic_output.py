"""Class masks: from logits to class ids, files, colours, and the overlay with its legend."""

from __future__ import annotations

import json
import os

import av
import numpy as np
import pytest
import torch
from clip_maker import HEIGHT, WIDTH, make_clip, tone
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from small_guided import NAMES, SIZE, WIDTHS, small_model

from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.command import segment_command
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.mask_predictor import MaskPredictor
from icf_avs.media.video_reader import read_frames
from icf_avs.output.class_labels import class_labels
from icf_avs.output.class_overlay import ClassOverlay, class_colours, draw_legend, indexed, palette
from icf_avs.output.overlay import Overlay, inner_edge
from icf_avs.types import ClipSpec, Prediction

CLASSES = ("dog", "cat", "bell")


class TwoThings(MaskPredictor):
    """A bar, left half dog, right half bell; nothing in the second clip. Background has the largest class logit."""

    classes = CLASSES
    semantic = True

    def __init__(self, frames: int = 2) -> None:
        self.spec, self.clips = ClipSpec(frames=frames), 0

    def predict(self, frames, waves):
        logits = torch.full((len(frames), 12, 16), -4.0)
        if self.clips != 1:
            logits[:, 4:8, 2:14] = 4
        classes = torch.zeros(len(frames), 4, 12, 16)
        classes[:, 0] = 9
        classes[:, 1, :, :8], classes[:, 3, :, 8:] = 2, 2
        self.clips += 1
        return Prediction(logits, torch.zeros(len(frames), 0), (), classes, ("background", *CLASSES))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=5, sound=tone(5))


@pytest.fixture(scope="module")
def found(clip, tmp_path_factory):
    return segment_video(TwoThings(), clip, tmp_path_factory.mktemp("out"), semantic=True, checkpoint="two")


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, pixel centres aligned at (i + 1/2) h/H - 1/2, borders repeated; [C, h, w] -> [C, H, W]."""

    def weights(small: int, large: int) -> np.ndarray:
        matrix = np.zeros((large, small))
        for i in range(large):
            at = max(0.0, (i + 0.5) * small / large - 0.5)
            low = min(int(at), small - 1)
            matrix[i, low] += 1 - (at - low)
            matrix[i, min(low + 1, small - 1)] += at - low
        return matrix

    rows, columns = weights(maps.shape[1], size[0]), weights(maps.shape[2], size[1])
    return np.einsum("ih,chw,jw->cij", rows, maps, columns)


@given(st.integers(0, 2**31), st.integers(1, 30), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.floats(0, 8))
@settings(deadline=None, max_examples=60)
def test_class_ids_are_the_argmax_of_upsampled_logits(seed, classes, small, background):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((classes + 1, *small)) + np.r_[background, rng.uniform(0, 8, classes)][:, None, None]
    size = tuple(rng.integers(1, 40, 2).tolist())
    values = enlarged(logits.astype(np.float32), size)
    mask = rng.random(size) > 0.5
    ids = class_labels(torch.from_numpy(logits).float(), size).numpy()
    inside = class_labels(torch.from_numpy(logits).float(), size, torch.from_numpy(mask)).numpy()
    assert ids.dtype == np.uint8 and ids.shape == size
    reached = np.take_along_axis(values, ids[None].astype(int), 0)[0]
    np.testing.assert_allclose(reached, values.max(0), atol=1e-4)
    np.testing.assert_array_equal(inside > 0, mask)  # never background inside the mask
    reached = np.take_along_axis(values, inside[None].astype(int), 0)[0]
    np.testing.assert_allclose(reached[mask], values[1:].max(0)[mask], atol=1e-4)


def test_a_class_highest_only_between_grid_points_is_found():
    logits = torch.tensor([[[0.6, 0.6]], [[1.0, 0.0]], [[0.0, 1.0]]])
    assert class_labels(logits, (1, 9)).unique().tolist() == [0, 1, 2]


def test_more_than_255_classes_are_refused():
    with pytest.raises(ValueError, match="at most 255"):
        class_labels(torch.zeros(257, 2, 2), (2, 2))
    assert class_labels(torch.arange(256.0)[:, None, None], (1, 1)).item() == 255


class Pyramid(torch.nn.Module):
    """Frames to a pyramid with the widths of the small model."""

    channels = WIDTHS

    def forward(self, frames):
        planes = frames.permute(0, 3, 1, 2).float() / 255
        levels = [torch.nn.functional.avg_pool2d(planes, stride) for stride in (4, 8, 16, 32)]
        return [level.repeat(1, 4, 1, 1)[:, :width] for level, width in zip(levels, WIDTHS, strict=True)]


def icf(semantic: bool, **parts: bool):
    model = small_model(semantic=semantic, **parts)
    model.network.visual = Pyramid()
    return Predictor(model)


@pytest.mark.parametrize("implicit_text", [True, False])
def test_predict_fills_classes_only_with_a_class_head(implicit_text):
    frames = torch.randint(0, 256, (3, SIZE, SIZE, 3), dtype=torch.uint8)
    waves = 0.1 * torch.randn(3, ClipSpec().window)
    found = icf(True, implicit_text=implicit_text).predict(frames, waves)
    assert found.classes.shape == (3, len(NAMES) + 1, SIZE // 4, SIZE // 4)
    assert found.class_names == ("background", *NAMES)
    without = icf(False, implicit_text=implicit_text).predict(frames, waves)
    assert without.classes is None and without.class_names == ()
    assert found.words == without.words and found.heard.shape == without.heard.shape


def test_class_masks_of_a_real_model(clip):
    predictor = icf(True)
    predictor.model.offset.fill_(3.0)  # random weights give few positive pixels
    result = segment_video(predictor, clip, semantic=True)
    assert result.masks.any() and result.class_names == ("background", *NAMES)
    np.testing.assert_array_equal(result.class_ids > 0, result.masks)
    assert result.class_ids.max() <= len(NAMES)
    plain = segment_video(predictor, clip)
    np.testing.assert_array_equal(plain.masks, result.masks)


def test_class_ids_and_files_agree(found):
    names = sorted(os.listdir(found.folder))
    assert names == ["classes", "masks", "overlay.mp4", "segmentation.json", "sheet.png"]
    assert found.class_ids.shape == (5, HEIGHT, WIDTH) and found.class_ids.dtype == np.uint8
    document = json.loads((found.folder / "segmentation.json").read_text())
    assert [(kind["id"], kind["name"]) for kind in document["categories"]] == [(1, "dog"), (2, "cat"), (3, "bell")]
    assert document["categories"][2]["color"] == [128, 128, 0]
    for index, frame in enumerate(document["frames"]):
        with Image.open(found.folder / "classes" / f"{index:06d}.png") as stored:
            assert stored.mode == "P"
            ids = np.asarray(stored)
            np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), palette()[ids])
            np.testing.assert_array_equal(np.asarray(indexed(ids)), ids)
        np.testing.assert_array_equal(ids, found.class_ids[index])
        np.testing.assert_array_equal(ids > 0, np.asarray(Image.open(found.folder / "masks" / f"{index:06d}.png")) > 0)
        rebuilt = np.zeros_like(ids)
        for part in frame["classes"]:
            mask = coco_mask.decode(part["segmentation"])
            rebuilt += np.uint8(part["category_id"]) * mask
            assert part["area"] == pytest.approx(mask.mean(), abs=1e-6)
            assert 0.5 < part["score"] <= 1
            assert part["name"] == (None, *CLASSES)[part["category_id"]]
        np.testing.assert_array_equal(rebuilt, ids)
    kinds = [[part["name"] for part in frame["classes"]] for frame in document["frames"]]
    assert kinds == [["dog", "bell"], ["dog", "bell"], [], [], ["dog", "bell"]]  # the second of the clips is blank
    left, right = found.class_ids[0][:, : WIDTH // 2], found.class_ids[0][:, WIDTH // 2 :]
    assert set(np.unique(left)) == {0, 1} and set(np.unique(right)) == {0, 3}


def test_without_semantic_there_are_no_class_files_and_legend(clip, tmp_path, found):
    plain = segment_video(TwoThings(), clip, tmp_path, checkpoint="two")
    assert sorted(os.listdir(plain.folder)) == ["masks", "overlay.mp4", "segmentation.json", "sheet.png"]
    document = json.loads((plain.folder / "segmentation.json").read_text())
    assert "categories" not in document and not any("classes" in frame for frame in document["frames"])
    np.testing.assert_array_equal(plain.masks, found.masks)
    assert plain.class_names == ()
    with pytest.raises(ValueError, match="semantic=True"):
        _ = plain.class_ids
    sheet, without = (np.asarray(Image.open(result.folder / "sheet.png")) for result in (found, plain))
    assert sheet.shape[0] > without.shape[0] and sheet.shape[1] == without.shape[1]
    legend = sheet[without.shape[0] :]
    shown = [(legend == palette()[index]).all(axis=-1).sum() > 50 for index in (1, 2, 3)]
    assert shown == [True, False, True]  # the classes that occur


def test_overlay_video_has_the_colours_and_the_legend(clip, found):
    (_, old), (_, quiet_old) = read_frames(clip, [0.5, 2.5])
    (_, new), (_, quiet) = read_frames(found.folder / "overlay.mp4", [0.5, 2.5])
    assert np.abs(quiet.astype(int) - quiet_old).mean() < 6  # no mask: no legend
    ids = found.class_ids[0]
    legend = (new[:12, :40].astype(int) < 60).all(axis=-1)
    assert legend.mean() > 0.4  # dark background
    below = np.arange(HEIGHT)[:, None] >= HEIGHT // 3
    for index in (1, 3):
        inside = (ids == index) & ~inner_edge(ids, 3) & below
        change = (new.astype(int) - old)[inside].mean(0)
        expected = (112 / 256 * (palette()[index].astype(int) - old[inside])).mean(0)
        np.testing.assert_allclose(change, expected, atol=12)


def test_the_command_and_a_checkpoint_without_a_class_head(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "load", lambda checkpoint, device="auto": Segmenter(TwoThings(), "two"))
    segment_command([clip], tmp_path / "two", None, 1.0, 0.5, semantic=True)
    assert "5 masks (1 a second), 3 with" in capsys.readouterr().out
    assert len(os.listdir(tmp_path / "two" / "a" / "classes")) == 5
    monkeypatch.setattr(pretrained, "load", lambda checkpoint=None, device="auto": Segmenter(icf(False), "stamps"))
    with pytest.raises(UserError, match="stamps was trained without a class head; ") as error:
        segment_command([clip, clip], tmp_path / "out", None, 1.0, 0.5, semantic=True)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="without a class head"):
        Segmenter(icf(False), "stamps").segment(clip, semantic=True)
    assert os.listdir(tmp_path) == ["two"]


def test_colours_are_those_of_avss_and_pascal_voc():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 8: (64, 0, 0),
             15: (192, 128, 128), 20: (0, 64, 128), 70: (32, 128, 128), 255: (224, 224, 192)}  # fmt: skip
    colours = palette()
    assert colours.shape == (256, 3) and colours.dtype == np.uint8
    assert {index: tuple(colours[index].tolist()) for index in known} == known
    for index, colour in enumerate(colours.tolist()):
        bits = f"{index:09b}"[::-1]  # lowest first, assigned to red, green, blue in turn
        assert colour == [int(bits[channel::3].ljust(8, "0"), 2) for channel in range(3)], index
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    np.testing.assert_array_equal(palette(71), colours[:71])
    for n in (0, 257):
        with pytest.raises(ValueError, match="colours"):
            palette(n)


def test_each_class_is_drawn_independently():
    rng = np.random.default_rng(0)
    ids = np.asarray(Image.fromarray(rng.integers(0, 4, (5, 7), np.uint8)).resize((70, 50), Image.Resampling.NEAREST))
    colours = class_colours(4)
    together = np.full((50, 70, 3), 90, np.uint8)
    Overlay(ids, colours).draw_rgb(together)
    apart = np.full((50, 70, 3), 90, np.uint8)
    for index in (1, 2, 3):
        Overlay(np.where(ids == index, np.uint8(index), np.uint8(0)), colours).draw_rgb(apart)
    np.testing.assert_array_equal(together, apart)
    assert (together[ids == 0] == 90).all()
    edge = inner_edge(ids, 1)
    for index in (1, 2, 3):
        assert (together[edge & (ids == index)] == 128 + palette()[index] // 2).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_any_size_can_be_drawn_on(height, width, seed):
    ids = np.random.default_rng(seed).integers(0, 4, (height, width), dtype=np.uint8)
    y = np.full((height + height % 2, width + width % 2), 90, np.uint8)
    u, v = (np.full((y.shape[0] // 2, y.shape[1] // 2), 128, np.uint8) for _ in range(2))
    ClassOverlay(ids, ("background", *CLASSES)).draw_yuv420(y, u, v)


def test_the_legend_fits_and_counts_omitted_classes():
    names = ("background", *(f"a rather long name {i}" for i in range(70)))
    every = range(1, 71), names
    for width, height in ((100, 40), (400, 60), (300, 1), (5, 5), (2000, 2000)):
        picture = draw_legend(*every, width, height, 12)
        assert picture.width <= width and picture.height <= height

    def swatches(picture):
        pixels = np.asarray(picture)
        return sum((pixels == palette(71)[index]).all(axis=-1).sum() > 50 for index in range(1, 71))

    assert swatches(draw_legend(*every, 2000, 2000, 12)) == 70
    few = draw_legend(*every, 400, 60, 12)
    assert 1 <= swatches(few) < 70
    words, font = f"+{70 - swatches(few)} more", ImageFont.load_default(12)
    told = Image.new("RGB", (round(font.getlength(words)), 18), (24, 24, 24))
    ImageDraw.Draw(told).text((0, 9), words, (235, 235, 235), font, "lm")
    places = np.lib.stride_tricks.sliding_window_view(np.asarray(few.convert("L")), told.size[::-1])
    assert (places == np.asarray(told.convert("L"))).all(axis=(2, 3)).any()


def test_the_legend_has_the_class_colours_in_a_video_frame():
    ids = np.zeros((240, 320), np.uint8)
    ids[200:230, 10:300], ids[150:160, 10:50] = 3, 1
    y, u, v = np.full((240, 320), 90, np.uint8), np.full((120, 160), 128, np.uint8), np.full((120, 160), 128, np.uint8)
    ClassOverlay(ids, ("background", *CLASSES)).draw_yuv420(y, u, v)
    planes = np.concatenate([plane.ravel() for plane in (y, u, v)]).reshape(360, 320)
    frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
    shown = frame.to_ndarray(format="rgb24").astype(int)
    panel = np.asarray(draw_legend([3, 1], ("background", *CLASSES), 320, 80, 10)).astype(int)  # largest first
    height, width = (side // 2 * 2 for side in panel.shape[:2])
    difference = np.abs(shown[:height, :width] - panel[:height, :width])
    for index in (1, 3):
        tint = (panel[:height, :width] == palette()[index]).all(axis=-1)
        assert tint.sum() > 40 and difference[tint].mean() < 20
    assert difference.mean() < 8
    assert (y[height : height + 20, :width] == 90).all() and (y[:height, width + 1 :] == 90).all()
