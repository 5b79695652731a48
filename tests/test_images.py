"""Still images are read as image viewers show them; resizing and guided filter against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs.datasets.image_io import read_frames
from icf_avs.inference.guided_filter import _EPS, _fit
from icf_avs.media.images import resize_frames
from icf_avs.synthetic.compose.images import FolderImages

PICTURE = np.full((20, 30, 3), 120, np.uint8)
PICTURE[:10, :15], PICTURE[:10, 15:], PICTURE[10:, :15] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
STORED = {  # by EXIF orientation
    1: PICTURE, 2: PICTURE[:, ::-1], 3: PICTURE[::-1, ::-1], 4: PICTURE[::-1], 5: PICTURE.swapaxes(0, 1),
    6: PICTURE[:, ::-1].swapaxes(0, 1), 7: PICTURE[::-1, ::-1].swapaxes(0, 1), 8: PICTURE[::-1].swapaxes(0, 1),
}  # fmt: skip
RAMP = np.linspace(0, 255, 30).round().astype(np.uint8)[None].repeat(20, 0)
WHITE = np.full((20, 30, 3), 255, np.uint8)
MODES = {
    "grey of 16 bits": Image.fromarray(RAMP.astype(np.uint16) * 257), "grey": Image.fromarray(RAMP),
    "alpha": Image.fromarray(np.dstack([WHITE, RAMP])), "palette": Image.fromarray(RAMP).convert("P"),
    "grey and alpha": Image.fromarray(np.dstack([WHITE[..., :1], RAMP])),
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation_is_applied(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(tmp_path / name, exif=exif, quality=95)
    (image,) = read_frames([tmp_path / name], None)
    assert image.shape == PICTURE.shape
    assert np.abs(image[::9, ::12].astype(int) - PICTURE[::9, ::12]).max() < 60


@pytest.mark.parametrize("kind", MODES)
def test_png_modes(tmp_path, kind):
    clear = {"transparency": 255} if kind == "palette" else {}
    for folder in ("images/dog", "masks/dog"):
        (tmp_path / folder).mkdir(parents=True)
    MODES[kind].save(tmp_path / "images/dog/a.png", **clear)
    Image.fromarray(RAMP).save(tmp_path / "masks/dog/a.png")
    (image,) = read_frames([tmp_path / "images/dog/a.png"], None)
    wanted = np.where(RAMP == 255, 0, RAMP) if clear else RAMP
    assert np.abs(image.astype(int) - wanted[..., None]).max() <= 1
    pictures = FolderImages(tmp_path)
    np.testing.assert_array_equal(np.asarray(pictures.load(pictures.images[0])[0]), image)


@pytest.mark.parametrize(("size", "side"), [((90, 160), 48), ((48, 48), 32), ((20, 31), 64), ((7, 5), 1)])
def test_resizing_equals_float_interpolation_and_pillow(size: tuple[int, int], side: int) -> None:
    pictures = torch.randint(0, 256, (2, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = resize_frames(pictures, side)
    assert found.shape == (2, side, side, 3) and found.dtype == torch.uint8 and found.is_contiguous()
    real = F.interpolate(pictures.permute(0, 3, 1, 2).double(), (side, side), mode="bilinear", antialias=True)
    assert (found.permute(0, 3, 1, 2).double() - real).abs().max() < 1.01
    pillow = Image.fromarray(pictures[0].numpy()).resize((side, side), Image.Resampling.BILINEAR)
    assert np.abs(found[0].numpy().astype(int) - np.asarray(pillow)).max() <= 1
    assert resize_frames(found, side) is found


def test_every_window_equals_a_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(2, 3, 9, 12, generator=generator) - 0.5
    values = torch.randn(2, 1, 9, 12, generator=generator)
    slopes, level = _fit(colours, values, radius=2)
    for n, row, column in ((0, 4, 5), (1, 0, 0), (1, 8, 7)):  # inside, at a corner, at a border
        window = slice(max(row - 2, 0), row + 3), slice(max(column - 2, 0), column + 3)
        inputs = colours[n][:, *window].flatten(1).double()
        wanted = values[n, 0][window].flatten().double()
        centred = inputs - inputs.mean(1, keepdim=True)
        spread = centred @ centred.T / inputs.shape[1] + _EPS * torch.eye(3)
        slope = torch.linalg.solve(spread, centred @ wanted / inputs.shape[1])
        torch.testing.assert_close(slopes[n, :, row, column].double(), slope, atol=2e-3, rtol=2e-3)
        expected = wanted.mean() - slope @ inputs.mean(1)
        torch.testing.assert_close(level[n, 0, row, column].double(), expected, atol=1e-3, rtol=1e-3)
