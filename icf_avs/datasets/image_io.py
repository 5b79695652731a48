"""Read frames and masks of a clip at one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from icf_avs.errors import UserError
from icf_avs.media.container import check_no_pipe
from icf_avs.media.images import upright_rgb

SIZE = 224  # side of a frame in pixels, in the reference protocol
CLASSES = 71  # of AVSS, with background
Layout = Literal["S4", "MS3", "AVSS", "own", "own-classes"]
CLASS_ID_LAYOUTS = ("AVSS", "own-classes")  # layouts whose masks hold class ids


def read_frames(paths: Sequence[Path], size: int | None) -> np.ndarray:
    """Read the frames of a clip, RGB uint8 [T, H, W, 3]; squashed to `size` x `size`, or at native size (None).

    Raises UserError for a missing or unreadable frame, and without `size` for frames of different sizes.
    """
    sides = None if size is None else (size, size)
    frames = [_resized(upright_rgb(open_image(path)), sides, Image.Resampling.BILINEAR) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            shapes = " and ".join(f"{array.shape[1]}x{array.shape[0]}" for array in (frames[0], frame))
            raise UserError(f"{path}: frames of one clip are {shapes}; unpack the set again, or load at a fixed size")
    return np.stack(frames)


def read_mask(path: Path, layout: Layout, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read one mask, uint8 [H, W], resized to `size` (H, W) by nearest neighbour, or at native size (None).

    Values are class ids in CLASS_ID_LAYOUTS, else 0 and 1. Raises UserError for values that the layout does not have.
    """
    mask = _resized(open_image(path), size, Image.Resampling.NEAREST)
    if mask.ndim == 3 and (mask == mask[..., :1]).all():  # grey, but stored as RGB
        mask = mask[..., 0]
    found = np.unique(mask).tolist()
    ids = layout in CLASS_ID_LAYOUTS
    if mask.ndim != 2 or not (found[-1] < CLASSES if ids else {*found} <= {0, 1} or {*found} <= {0, 255}):
        want = f"class ids 0..{CLASSES - 1}" if ids else "0 and 255"
        some = found if len(found) <= 6 else [*found[:3], *found[-3:]]  # a wrong value is mostly the largest
        raise UserError(f"{path} is no {layout} mask: want one channel with {want}, got {some}")
    return mask.astype(np.uint8) if ids else (mask > 0).astype(np.uint8)


def open_image(
    path: Path, decode: bool = True, missing: str = "unpack the set again, or correct its table"
) -> Image.Image:
    """Open an image; without `decode` only its header (for the size). missing: advice if the file does not exist.

    Raises UserError if it is missing or unreadable.
    """
    check_no_pipe(path)
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return image
    except FileNotFoundError:
        raise UserError(f"{missing_folder(path)} is missing; {missing}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the image {path}: {error}; copy it again") from error


def missing_folder(path: Path) -> Path:
    """Return the topmost missing folder above a missing file (a whole split may be missing), or the file itself."""
    while not path.parent.exists():
        path = path.parent
    return path


def _resized(image: Image.Image, size: tuple[int, int] | None, resample: Image.Resampling) -> np.ndarray:
    same = size is None or image.size == size[::-1]
    return np.asarray(image if same else image.resize(size[::-1], resample))
