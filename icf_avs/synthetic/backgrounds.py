"""Backgrounds of the embedded benchmark: outdoor photographs of two optional packages, and generated coloured noise.

A background reference is "gcompris:MEMBER", "mate:PATH" or "noise:NUMBER". A hash of its name assigns each reference to
one split, so that a photograph is never in two splits.
"""

from __future__ import annotations

import io
import warnings
from functools import lru_cache

import numpy as np
from PIL import Image

from icf_avs.errors import UserError
from icf_avs.synthetic import asset_packages
from icf_avs.synthetic.qt_resource import QtResource
from icf_avs.synthetic.scene import base_split, hash_decile

_LONGEST = 640  # pixels of the longer side
_NOISES = 1 << 30  # number of generated backgrounds
_SPLITS = {"train": range(7), "val": range(7, 8), "test": range(8, 10)}  # deciles of the hashed names


@lru_cache(maxsize=1)
def list_photographs() -> tuple[str, ...]:
    """Return references of all photographs on this machine, sorted; empty, with a warning, if there are none."""
    found = []
    if asset_packages.find(asset_packages.GCOMPRIS):
        found += [f"gcompris:{name}" for name in _monuments() if "/resource/" in name and name.endswith(".webp")]
    if mate := asset_packages.find(asset_packages.MATE):
        found += [f"mate:nature/{path.name}" for path in (mate / "nature").glob("*.jpg")]
    if not found:
        missing = "no background photographs here (Debian packages gcompris-qt-data and mate-backgrounds): "
        warnings.warn(f"{missing}scenes get generated backgrounds, which are easier", stacklevel=2)
    return tuple(sorted(found))


@lru_cache(maxsize=1)
def _monuments() -> QtResource:
    return QtResource(asset_packages.root(asset_packages.GCOMPRIS) / "explore_monuments.rcc")


@lru_cache(maxsize=4)
def _photographs_of(split: str) -> tuple[str, ...]:
    return tuple(name for name in list_photographs() if hash_decile(name) in _SPLITS[split])


def sample_background(split: str, rng: np.random.Generator, noise_share: float) -> str:
    """Draw a random reference of a split (`base_split`); `noise_share`: share of coloured noise."""
    split = base_split(split)
    choices = _photographs_of(split)
    if choices and rng.random() >= noise_share:
        return choices[rng.integers(len(choices))]
    while True:
        reference = f"noise:{rng.integers(_NOISES)}"
        if hash_decile(reference) in _SPLITS[split]:
            return reference


@lru_cache(maxsize=96)
def load_background(reference: str) -> Image.Image:
    """Load the image of a reference, RGB, longer side at most 640. Raises UserError if it cannot be read."""
    source, _, name = reference.partition(":")
    if source == "noise":
        return _coloured_noise(int(name))
    try:
        if source == "gcompris":
            image = Image.open(io.BytesIO(_monuments()[name]))
        else:
            image = Image.open(asset_packages.root(asset_packages.MATE) / name)
        image.draft("RGB", (_LONGEST, _LONGEST))
        image = image.convert("RGB")
    except (OSError, KeyError) as error:
        raise UserError(f"the background {reference} cannot be read ({error}): fetch the data again") from error
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def _coloured_noise(seed: int) -> Image.Image:
    """Generate smooth colours on three scales, 640x480."""
    rng = np.random.default_rng(seed)
    total = np.zeros((480, 640, 3), dtype=np.float32)
    for cells, strength in ((3, 60.0), (9, 30.0), (30, 14.0)):
        grid = np.clip(rng.normal(128, strength, (cells * 3 // 4 + 1, cells, 3)), 0, 255).astype(np.uint8)
        layer = Image.fromarray(grid).resize((640, 480), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float32) - 128
    total += rng.uniform(70, 185, 3).astype(np.float32)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))
