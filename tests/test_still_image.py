"""Still images are read as image viewers show them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from icf_avs.datasets.image_io import read_frames
from icf_avs.synthetic.compose.images import FolderImages

PICTURE = np.full((20, 30, 3), 120, np.uint8)
PICTURE[:10, :15], PICTURE[:10, 15:], PICTURE[10:, :15] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
STORED = {  # by EXIF orientation
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.swapaxes(0, 1),
    6: PICTURE[:, ::-1].swapaxes(0, 1),
    7: PICTURE[::-1, ::-1].swapaxes(0, 1),
    8: PICTURE[::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation_is_applied(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(tmp_path / name, exif=exif, quality=95)
    (image,) = read_frames([tmp_path / name], None)
    assert image.shape == PICTURE.shape
    assert np.abs(image[::9, ::12].astype(int) - PICTURE[::9, ::12]).max() < 60


@pytest.mark.parametrize("kind", ["grey of 16 bits", "grey", "alpha", "grey and alpha", "palette with a clear colour"])
def test_png_modes(tmp_path, kind):
    ramp = np.linspace(0, 255, 30).round().astype(np.uint8)[None].repeat(20, 0)
    wanted = ramp.astype(int)
    if kind == "grey of 16 bits":
        image = Image.fromarray(ramp.astype(np.uint16) * 257)
    elif kind == "grey":
        image = Image.fromarray(ramp)
    elif kind == "alpha":
        image = Image.fromarray(np.dstack([np.full((20, 30, 3), 255, np.uint8), ramp]))
    elif kind == "grey and alpha":
        image = Image.fromarray(np.dstack([np.full((20, 30), 255, np.uint8), ramp]))
    else:
        image = Image.fromarray(ramp).convert("P")
        image.info["transparency"], wanted = 255, np.where(ramp == 255, 0, wanted)
    image.save(tmp_path / "a.png")
    (image,) = read_frames([tmp_path / "a.png"], None)
    assert np.abs(image.astype(int) - wanted[..., None]).max() <= 1

    for folder in ("images/dog", "masks/dog"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "images/dog/a.png")
    Image.fromarray(ramp).save(tmp_path / "masks/dog/a.png")
    pictures = FolderImages(tmp_path)
    again, _ = pictures.load(pictures.images[0])
    np.testing.assert_array_equal(np.asarray(again), image)
