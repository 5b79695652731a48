"""Non-square pixels: every output has the display aspect ratio."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from clip_maker import make_clip, picture, tone
from PIL import Image
from witness import Witness

from icf_avs.inference.segment import Segmenter, segment_video
from icf_avs.media.images import thumbnail
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference

SHAPES = [Fraction(2), Fraction(16, 11), Fraction(1, 2), Fraction(64, 45), Fraction(1)]


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("aspect", SHAPES)
def test_every_output_has_the_display_aspect_ratio(tmp_path, aspect, rotation):
    path = make_clip(tmp_path / "a.mp4", seconds=1, fps=5, sound=tone(1), pixel_aspect=aspect, rotation=rotation)
    width, height = (120, 160) if rotation else (160, 120)
    aspect = 1 / aspect if rotation else aspect
    result = segment_video(Witness(), path, tmp_path / "out")
    assert result.masks.shape == (1, height, width) and result.video.pixel_aspect == aspect
    info = probe(result.folder / "overlay.mp4")
    assert (info.width, info.height, info.pixel_aspect) == (width, height, aspect)

    shown = max(1, aspect) * width / (max(1, 1 / aspect) * height)
    with Image.open(result.folder / "sheet.png") as sheet:
        assert (sheet.width - 12) / (sheet.height - 34) == pytest.approx(shown, rel=0.02)
    ((preview, _),) = run_inference(Segmenter(Witness(), ""), path, tmp_path, Limits()).pictures
    with Image.open(preview) as image:
        assert max(image.size) <= 320 and image.width / image.height == pytest.approx(shown, rel=0.02)


@pytest.mark.parametrize("aspect", SHAPES)
def test_a_circle_is_round_in_a_thumbnail(aspect):
    y, x = np.mgrid[:360, :480]
    circle = ((x - 240) * float(aspect)) ** 2 + (y - 180) ** 2 < 100**2
    small = np.asarray(thumbnail((circle * np.uint8(255))[..., None].repeat(3, 2), 320, aspect))[..., 0] > 127
    across, down = small.any(axis=0).sum(), small.any(axis=1).sum()
    assert across == pytest.approx(down, abs=2) and max(small.shape) <= 320


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_overlays_and_sheets_are_rotated_and_mirrored(tmp_path, rotation, flip):
    path = make_clip(tmp_path / "a.mp4", seconds=1, fps=5, sound=tone(1), rotation=rotation, flip=flip)
    expected = np.rot90(picture(2), rotation // 90)
    expected = (expected[:, ::-1] if flip else expected).astype(int)
    folder = segment_video(Witness(), path, tmp_path / "out", threshold=0.99).folder  # hardly any pixel is marked
    height, width = expected.shape[:2]
    ((_, film),) = read_frames(folder / "overlay.mp4", [0.5])
    assert film.shape == expected.shape and np.abs(film - expected).mean() < 12
    with Image.open(folder / "sheet.png") as sheet:
        tile = np.asarray(sheet)[6 : 6 + height, 6 : 6 + width]
    assert np.abs(tile - expected).mean() < 12
