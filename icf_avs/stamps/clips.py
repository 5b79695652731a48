"""A scene rendered to arrays: pictures, the map of stamps, the sound, and the ground truth that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icf_avs.contracts import ClipSpec
from icf_avs.stamps.rendering import render_frame
from icf_avs.stamps.sounds import SoundBank
from icf_avs.stamps.soundtrack import activity, render_tracks

if TYPE_CHECKING:
    from icf_avs.stamps.scene import Scene


@dataclass(frozen=True)
class Clip:
    """A rendered scene of T frames and n stamps."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    slots: np.ndarray  # uint8 [T, H, W]; 0 background, i + 1 stamp i
    active: np.ndarray  # bool [n, T]: stamp i sounds in interval t
    wave: np.ndarray  # float32 [N], 16 kHz
    kinds: tuple[str, ...]  # per stamp; empty for a distractor

    @property
    def masks(self) -> np.ndarray:
        """uint8 [T, H, W]: 1 where something sounds."""
        return masks(self.slots, self.active)


def render_clip(
    scene: Scene, bank: SoundBank, spec: ClipSpec, size: tuple[int, int] | None = None, variation: int = 0
) -> Clip:
    """Render the pictures at `spec`'s frame times and the sound; size is (width, height), None: spec.image_size.

    Raises ValueError when the specification is longer than the scene.
    """
    if spec.seconds > scene.seconds + 1e-6:
        raise ValueError(f"the specification covers {spec.seconds} s and the scene only {scene.seconds} s")
    size = size or (spec.image_size, spec.image_size)
    pictures = [render_frame(scene, spec.frame_time(t), size) for t in range(spec.frames)]
    wave, tracks = render_tracks(scene, bank, variation)
    return Clip(
        frames=np.stack([rgb for rgb, _ in pictures]),
        slots=np.stack([slots for _, slots in pictures]),
        active=activity(tracks, spec),
        wave=wave,
        kinds=tuple(placed.class_name for placed in scene.stamps),
    )


def masks(slots: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Binary ground truth, uint8 [T, H, W]: 1 where the topmost stamp sounds. slots [T, H, W], active [n, T]."""
    return _look_up(slots, active.astype(np.uint8))


def classes(slots: np.ndarray, active: np.ndarray, scene: Scene) -> np.ndarray:
    """Semantic ground truth: as `masks`, with the class id (1..number of kinds) of the sounding stamp; 0 elsewhere."""
    ids = np.array([placed.class_id for placed in scene.stamps], dtype=np.uint8)
    return _look_up(slots, active * ids[:, None])


def _look_up(slots: np.ndarray, values: np.ndarray) -> np.ndarray:
    table = np.concatenate([np.zeros((1, values.shape[1]), values.dtype), values])  # [n + 1, T]
    return np.stack([table[frame, t] for frame, t in zip(slots, range(len(slots)), strict=True)]).astype(np.uint8)
