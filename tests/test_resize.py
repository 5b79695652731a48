"""Integer resizing of frames equals floating-point resizing to within 1 of 255."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs.media.images import resize_frames


@pytest.mark.parametrize(("size", "side"), [((90, 160), 48), ((48, 48), 32), ((20, 31), 64), ((7, 5), 1)])
def test_resizing_equals_float_interpolation_and_pillow(size: tuple[int, int], side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, *size, 3), generator=generator, dtype=torch.uint8)
    found = resize_frames(pictures, side)
    assert found.shape == (2, side, side, 3) and found.dtype == torch.uint8 and found.is_contiguous()
    real = F.interpolate(pictures.permute(0, 3, 1, 2).double(), (side, side), mode="bilinear", antialias=True)
    assert (found.permute(0, 3, 1, 2).double() - real).abs().max() < 1.01
    pillow = Image.fromarray(pictures[0].numpy()).resize((side, side), Image.Resampling.BILINEAR)
    assert np.abs(found[0].numpy().astype(int) - np.asarray(pillow)).max() <= 1


def test_frames_of_the_right_size_are_returned() -> None:
    pictures = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    assert resize_frames(pictures, 32) is pictures
