"""A scene rendered to arrays: images, the map of stamps, the sound, and the ground truth that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.synthetic.soundtrack import activity, render_tracks
from icf_avs.types import ClipSpec

if TYPE_CHECKING:
    from icf_avs.synthetic.scene import Scene


@dataclass(frozen=True)
class Clip:
    """A rendered scene of T frames and n stamps."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    stamp_maps: np.ndarray  # uint8 [T, H, W]; 0 background, i + 1 stamp i
    active: np.ndarray  # bool [n, T]: stamp i sounds in interval t
    waveform: np.ndarray  # float32 [N], 16 kHz
    class_names: tuple[str, ...]  # per stamp; empty for a distractor

    @property
    def masks(self) -> np.ndarray:
        """uint8 [T, H, W]: 1 where something sounds."""
        return masks(self.stamp_maps, self.active)


def render_clip(
    scene: Scene, bank: SoundBank, spec: ClipSpec, size: tuple[int, int] | None = None, variation: int = 0
) -> Clip:
    """Render the images at `spec`'s frame times and the sound; size is (width, height), None: spec.image_size.

    Raises ValueError when the specification is longer than the scene.
    """
    if spec.seconds > scene.seconds + 1e-6:
        raise ValueError(f"the specification covers {spec.seconds} s and the scene only {scene.seconds} s")
    size = size or (spec.image_size, spec.image_size)
    images = [render_frame(scene, spec.frame_time(t), size) for t in range(spec.frames)]
    waveform, tracks = render_tracks(scene, bank, variation)
    return Clip(
        frames=np.stack([rgb for rgb, _ in images]),
        stamp_maps=np.stack([stamp_map for _, stamp_map in images]),
        active=activity(tracks, spec),
        waveform=waveform,
        class_names=tuple(placed.class_name for placed in scene.stamps),
    )


def masks(stamp_maps: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Binary ground truth, uint8 [T, H, W]: 1 where the topmost stamp sounds. stamp_maps [T, H, W], active [n, T]."""
    return _look_up(stamp_maps, active.astype(np.uint8))


def classes(stamp_maps: np.ndarray, active: np.ndarray, scene: Scene) -> np.ndarray:
    """Semantic ground truth: as `masks`, with the class id (from 1) of the sounding stamp; 0 elsewhere."""
    ids = np.array([placed.class_id for placed in scene.stamps], dtype=np.uint8)
    return _look_up(stamp_maps, active * ids[:, None])


def _look_up(stamp_maps: np.ndarray, values: np.ndarray) -> np.ndarray:
    table = np.concatenate([np.zeros((1, values.shape[1]), values.dtype), values])  # [n + 1, T]
    return table[stamp_maps, np.arange(len(stamp_maps))[:, None, None]].astype(np.uint8)
