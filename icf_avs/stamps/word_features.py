"""Word scenes with their pictures seen once: frozen features, class evidence and things in memory-mapped files.

Any word can be asked of them afterwards, also one that was made up in training: the evidence of all 1000 classes is
kept, as z-scores of one byte each. At 448 pixels a picture takes 0.9 MB at strides 8, 16 and 32, 1.5 MB with stride 4.
What the segmenter of things says of them is kept as well (word_shares.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icf_avs.backbones.class_evidence import CLASSES, ClassEvidence
from icf_avs.backbones.efficientnet_lite import EfficientNetLite0
from icf_avs.contracts import ClipSpec
from icf_avs.data.resize import resized
from icf_avs.stamps.backgrounds import photographs
from icf_avs.stamps.features import CHUNK, SLOT_STRIDE, Shapes, encoder, kept_folder, kept_scenes
from icf_avs.stamps.open_vocab_sampler import DEFAULT, OpenVocabStyle, sample_open_vocab_scene
from icf_avs.stamps.rendering import render_frame
from icf_avs.stamps.scene import Scene
from icf_avs.stamps.word_catalog import WordCatalog
from icf_avs.stamps.word_shares import kept_shares, shares_of

VERSION = 2  # raise when rendering, encoding or the statistics of the logits change
_STEP, _ZERO = 0.125, 32  # a byte b stands for the z-score (b - 32) / 8, from -4 to 27.875
PICTURE = ClipSpec(frames=1, image_size=448)
_AT_ONCE = 4  # pictures: their evidence in float32 takes 0.8 MB each


@dataclass(frozen=True)
class WordSceneSet:
    """`count` word scenes of one split and style, seen at the frames of `spec`; `strides` of the levels to keep."""

    split: str
    count: int
    seed: int = 0
    style: OpenVocabStyle = DEFAULT
    spec: ClipSpec = PICTURE
    strides: tuple[int, ...] = (8, 16, 32)

    def __post_init__(self) -> None:
        if not set(self.strides) <= set(EfficientNetLite0.strides) or list(self.strides) != sorted(set(self.strides)):
            raise ValueError(f"strides are {self.strides}; they must rise, and be of {EfficientNetLite0.strides}")


@dataclass
class WordFeatures:
    """scenes; pyramid: levels [n,T,h,w,c] float16; evidence [n,T,S/32,S/32,1000] uint8 (read it with `z_scores`);
    colours uint8 [n,T,S/2,S/2,3]; things [n,T,S/2,S/2] uint8 (0 background, i + 1 for scenes[n].objects[i]);
    shares uint8 [n,T,20,g,g] of the segmenter's things (read them with `shares_of`)."""

    scenes: list[Scene]
    pyramid: list[np.ndarray]
    evidence: np.ndarray
    colours: np.ndarray
    things: np.ndarray
    shares: np.ndarray

    def levels(self, indices: np.ndarray) -> list[Tensor]:
        """What a model looks at of some scenes: the pyramid, evidence and shares of things, [n,T,c,h,w] each."""
        pyramid = [torch.from_numpy(level[indices]).float().permute(0, 1, 4, 2, 3) for level in self.pyramid]
        return [*pyramid, z_scores(self.evidence[indices]), shares_of(self.shares[indices])]

    def masks(self, index: int, word: str) -> np.ndarray:
        """Where scene `index` shows what a word names: bool [T,S/2,S/2], empty for an absent word."""
        return np.isin(self.things[index], self.scenes[index].objects_named(word))


def z_scores(evidence: np.ndarray) -> Tensor:
    """Stored bytes [...,h,w,1000] -> z-scores float32 [...,1000,h,w], as ClassEvidence gave them to within 1/16."""
    return ((torch.tensor(evidence).float() - _ZERO) * _STEP).movedim(-1, -3)


def stored(scores: Tensor) -> np.ndarray:
    """z-scores [N,1000,h,w] -> bytes [N,h,w,1000]."""
    return (scores / _STEP + _ZERO).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def word_features(
    catalog: WordCatalog, wanted: WordSceneSet, workers: int, progress: Callable[[int, int], None] = lambda *at: None
) -> WordFeatures:
    """Find the features of a set of word scenes in the cache or compute them, in processes of their own.

    Raises UserError when the disk is full. A set that was not finished leaves nothing behind.
    """
    name = _digest(catalog, wanted)
    scenes, arrays = kept_scenes(
        name,
        _shapes(wanted),
        wanted.count,
        _do_chunk,
        lambda folder, start: (catalog, wanted, folder, start),
        workers,
        progress,
    )
    *pyramid, evidence, colours, things = arrays
    shares = kept_shares(kept_folder(name), colours, progress)
    return WordFeatures(scenes, pyramid, evidence, colours, things, shares)


def _shapes(wanted: WordSceneSet) -> Shapes:
    size, lead = wanted.spec.image_size, (wanted.count, wanted.spec.frames)
    channels = dict(zip(EfficientNetLite0.strides, EfficientNetLite0.channels, strict=True))
    levels: Shapes = {
        f"stride{stride}": ((*lead, -(-size // stride), -(-size // stride), channels[stride]), np.float16)
        for stride in wanted.strides
    }
    coarse, fine = -(-size // EfficientNetLite0.strides[-1]), size // SLOT_STRIDE
    return levels | {
        "evidence": ((*lead, coarse, coarse, CLASSES), np.uint8),
        "colours": ((*lead, fine, fine, 3), np.uint8),
        "things": ((*lead, fine, fine), np.uint8),
    }


def _digest(catalog: WordCatalog, wanted: WordSceneSet) -> str:
    facts = ["words", VERSION, catalog.digest, sorted(photographs()), asdict(wanted)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def _do_chunk(job: tuple[WordCatalog, WordSceneSet, Path | None, int]) -> list[Scene]:
    """Plan CHUNK scenes; where a folder is given, render and encode them into its files too."""
    catalog, wanted, folder, start = job
    stop = min(start + CHUNK, wanted.count)
    seconds = max(1, round(wanted.spec.seconds))
    scenes = [
        sample_open_vocab_scene(catalog, wanted.split, index, wanted.seed, wanted.style, seconds)
        for index in range(start, stop)
    ]
    if folder is None:
        return scenes
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in _shapes(wanted)}
    flat = {name: array[start:stop].reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
    moments = [(scene, wanted.spec.frame_time(t)) for scene in scenes for t in range(wanted.spec.frames)]
    size = (wanted.spec.image_size, wanted.spec.image_size)
    for at in range(0, len(moments), _AT_ONCE):
        here = slice(at, at + _AT_ONCE)
        rendered = [render_frame(scene, moment, size) for scene, moment in moments[here]]
        with torch.inference_mode():
            pictures = torch.from_numpy(np.stack([rgb for rgb, _ in rendered]))
            pyramid = encoder()(pictures)
            flat["colours"][here] = resized(pictures, flat["colours"].shape[1]).numpy()
            flat["evidence"][here] = stored(_evidence()(pyramid[-1]))
        for stride, level in zip(EfficientNetLite0.strides, pyramid, strict=True):
            if stride in wanted.strides:
                flat[f"stride{stride}"][here] = level.permute(0, 2, 3, 1).half().numpy()
        flat["things"][here] = np.stack(
            [
                scene.object_map(stamp_map[SLOT_STRIDE // 2 :: SLOT_STRIDE, SLOT_STRIDE // 2 :: SLOT_STRIDE])
                for (scene, _), (_, stamp_map) in zip(moments[here], rendered, strict=True)
            ]
        )
    return scenes


@lru_cache(maxsize=1)
def _evidence() -> ClassEvidence:
    return ClassEvidence(encoder())
