"""Composed scenes as clips, and as training batches: images are cached, sound is mixed anew for each batch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.media.audio_windows import clip_windows
from icf_avs.synthetic.audio_augment import PLAIN, AudioAugmentConfig
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.sounds import SoundBank, render_audio, render_tracks, track_activity
from icf_avs.types import MAP_STRIDE, MASK_STRIDE, Batch, ClipSpec

if TYPE_CHECKING:
    from icf_avs.synthetic.scene_features import SceneFeatures


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
        return binary_masks(self.stamp_maps, self.active)


def render_clip(
    scene: Scene, bank: SoundBank, spec: ClipSpec, size: tuple[int, int] | None = None, variation: int = 0
) -> Clip:
    """Render the frames at the times of `spec`, and the sound. size: (width, height), None: spec.image_size.

    Raises ValueError if the specification is longer than the scene.
    """
    if spec.seconds > scene.seconds + 1e-6:
        raise ValueError(f"the specification covers {spec.seconds} s and the scene only {scene.seconds} s")
    size = size or (spec.image_size, spec.image_size)
    images = [render_frame(scene, spec.frame_time(t), size) for t in range(spec.frames)]
    frames, stamp_maps = (np.stack(part) for part in zip(*images, strict=True))
    waveform, tracks = render_tracks(scene, bank, variation)
    names = tuple(placed.class_name for placed in scene.stamps)
    return Clip(frames, stamp_maps, track_activity(tracks, spec), waveform, names)


def binary_masks(stamp_maps: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Binary ground truth, uint8 [T, H, W]: 1 where the topmost stamp sounds. stamp_maps [T, H, W], active [n, T]."""
    return _look_up(stamp_maps, active)


def semantic_masks(stamp_maps: np.ndarray, active: np.ndarray, scene: Scene) -> np.ndarray:
    """Semantic ground truth: as `binary_masks`, with the class id (from 1) of the sounding stamp; 0 elsewhere."""
    return _look_up(stamp_maps, active * np.array([placed.class_id for placed in scene.stamps])[:, None])


def _look_up(stamp_maps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the value [n, T] of the stamp at each pixel, 0 for the background."""
    table = np.pad(values.astype(np.uint8), ((1, 0), (0, 0)))
    return table[stamp_maps, np.arange(len(stamp_maps))[:, None, None]]


def _sounding_classes(scene: Scene, active: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the classes that sound in each frame: active [n,T] -> [T,C] bool."""
    sounding = np.zeros((active.shape[1], num_classes), dtype=bool)
    for stamp, sounds in zip(scene.stamps, active, strict=True):
        if stamp.class_id:
            sounding[sounds, stamp.class_id - 1] = True
    return sounding


def make_batch(
    features: SceneFeatures, indices: np.ndarray, bank: SoundBank, spec: ClipSpec, num_classes: int, variation: int,
    with_images: bool = True, style: AudioAugmentConfig = PLAIN,
) -> Batch:  # fmt: skip
    """Batch the scenes `indices` with sound mix `variation`. Without images, masks and pyramid are empty."""
    waveforms, sounding, onscreen, maps = [], [], [], []
    for index in indices:
        scene = features.scenes[index]
        waveform, active = render_audio(scene, bank, variation, style)
        waveforms.append(clip_windows(waveform, spec, spec.frames))
        sounding.append(_sounding_classes(scene, active, num_classes))
        onscreen.append(_sounding_classes(scene, np.ones_like(active[:, :1]), num_classes)[0])
        if with_images:
            maps.append(semantic_masks(features.stamp_maps[index], active, scene))
    waves, sounds, shown = (torch.from_numpy(np.stack(part)) for part in (waveforms, sounding, onscreen))
    every, empty = torch.ones(sounds.shape[:2], dtype=torch.bool), torch.zeros(0)
    batch = Batch([], waves, empty, empty, every, every, sounds, shown)
    if with_images:
        batch.masks, batch.class_map = mask_and_class_targets(torch.from_numpy(np.stack(maps)))
        batch.pyramid = features.levels(indices)
    return batch


def mask_and_class_targets(class_map: Tensor) -> tuple[Tensor, Tensor]:
    """Convert class ids of what sounds, [B,T,S/2,S/2], to the masks [B,T,S/4,S/4] and class_map of a Batch."""
    return F.avg_pool2d((class_map > 0).float(), MASK_STRIDE // MAP_STRIDE), class_map.long()


def concat_batches(batches: list[Batch]) -> Batch:
    """Concatenate batches of clips of the same length and size."""
    if len(batches) == 1:
        return batches[0]
    names = [field.name for field in fields(Batch) if isinstance(getattr(batches[0], field.name), Tensor)]
    levels = zip(*(batch.pyramid for batch in batches), strict=True)
    return replace(
        batches[0],
        pyramid=[torch.cat(level) for level in levels],
        **{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names},
    )
