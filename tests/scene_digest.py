"""Digest of scenes, equal on every processor: values are rounded, as the last bits of NumPy's exp and power differ."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path

from icf_avs.synthetic.scene import Scene


def scene_digest(scenes: Iterable[Scene]) -> str:
    text = "".join(repr(astuple(replace(scene, root=Path()))) for scene in scenes)
    rounded = re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.8g}", text)
    return hashlib.sha256(rounded.encode()).hexdigest()[:16]
