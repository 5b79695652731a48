"""Training batches from composed scenes: cached pictures, fresh sound. A batch is a function of (seed, step)."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.media.windows import clip_windows
from icf_avs.synthetic.audio_augment import PLAIN, AudioAugment
from icf_avs.synthetic.clip_renderer import classes
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.scene_features import MAP_STRIDE, SceneFeatures
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.synthetic.soundtrack import render_audio
from icf_avs.types import MASK_STRIDE, Batch, ClipSpec


def scene_audio(
    scene: Scene, bank: SoundBank, spec: ClipSpec, variation: int, style: AudioAugment = PLAIN
) -> tuple[np.ndarray, np.ndarray]:
    """Mix a scene's sound: windows [T,N] float32 and which stamp is heard in which frame [n,T] bool."""
    waveform, active = render_audio(scene, bank, variation, style)
    return clip_windows(waveform, spec, spec.frames), active


def sounding_classes(scene: Scene, active: np.ndarray, classes: int) -> np.ndarray:
    """active [n,T] -> sounding [T,C] bool."""
    sounding = np.zeros((active.shape[1], classes), dtype=bool)
    for stamp, sounds in zip(scene.stamps, active, strict=True):
        if stamp.class_id:
            sounding[sounds, stamp.class_id - 1] = True
    return sounding


def make_batch(
    features: SceneFeatures,
    indices: np.ndarray,
    bank: SoundBank,
    spec: ClipSpec,
    num_classes: int,
    variation: int,
    with_images: bool = True,
    style: AudioAugment = PLAIN,
) -> Batch:
    """The scenes of `indices` under the sound mix `variation`. Without pictures only waves and sounding are filled."""
    waves, sounding, onscreen, maps = [], [], [], []
    for index in indices:
        scene = features.scenes[index]
        windows, active = scene_audio(scene, bank, spec, variation, style)
        waves.append(windows)
        sounding.append(sounding_classes(scene, active, num_classes))
        onscreen.append(sounding_classes(scene, np.ones((len(scene.stamps), 1), dtype=bool), num_classes)[0])
        if with_images:
            maps.append(classes(features.stamp_maps[index], active, scene))
    sounds = torch.from_numpy(np.stack(sounding))
    every = torch.ones(sounds.shape[:2], dtype=torch.bool)
    empty = torch.zeros(0)
    batch = Batch(
        [], torch.from_numpy(np.stack(waves)), empty, empty, every, every, sounds, torch.from_numpy(np.stack(onscreen))
    )
    if with_images:
        batch.masks, batch.kinds_map = targets(torch.from_numpy(np.stack(maps)))
        batch.pyramid = features.levels(indices)
    return batch


def targets(kinds_map: Tensor) -> tuple[Tensor, Tensor]:
    """Classes of what sounds at every second pixel, [B,T,S/2,S/2] -> masks [B,T,S/4,S/4] and kinds_map of a Batch."""
    return F.avg_pool2d((kinds_map > 0).float(), MASK_STRIDE // MAP_STRIDE), kinds_map.long()


def concatenate(batches: list[Batch]) -> Batch:
    """Batches of clips of the same length and size, as one."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    whole = {
        field.name: torch.cat([getattr(batch, field.name) for batch in batches])
        for field in fields(Batch)
        if isinstance(getattr(first, field.name), torch.Tensor)
    }
    levels = zip(*(batch.pyramid for batch in batches), strict=True)
    return replace(first, pyramid=[torch.cat(level) for level in levels], **whole)
