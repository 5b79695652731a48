"""Scenes with cached image features: frozen features and stamp maps in memory-mapped files; sound is mixed later.

Rendering and encoding a frame takes about 30 ms, and the features of a frozen encoder never change. So they are
computed once, in parallel, and found again by a digest of everything they depend on. Open-vocabulary scenes also store
what any word can be compared with: small images, the scores of all ImageNet classes and the segmenter's probabilities.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from icf_avs.atomic_io import cache_dir, load_arrays, make_once, save_arrays
from icf_avs.datasets.jobs import in_processes
from icf_avs.encoders.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from icf_avs.encoders.open_vocab_encoder import CLASSES, DenseClassifier
from icf_avs.encoders.voc_segmenter import GRID, VOC_CLASSES, load_segmenter_or_none
from icf_avs.errors import UserError
from icf_avs.media.images import resize_frames
from icf_avs.synthetic.backgrounds import list_photographs
from icf_avs.synthetic.catalog import Catalog, OpenVocabCatalog
from icf_avs.synthetic.open_vocab_sampler import OpenVocabStyle, sample_open_vocab_scene
from icf_avs.synthetic.rendering import render_frame, render_stamp_map
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.scene_sampler import SceneStyle, sample_scene
from icf_avs.types import MAP_STRIDE, ClipSpec, VisualFeatures

VERSION = 3  # raise when rendering, encoding or the segmenter change
VALIDATION_SEED = 0  # the same for all runs, so that their scores are comparable
_MAX_SETS = 8  # most training sets of scenes in a run
_CHUNK, _BATCH = 16, 4  # scenes per job of a worker, frames per batch of the encoder
_QUANT_STEP, _QUANT_ZERO = 0.125, 32  # a byte b stands for the z-score (b - 32) / 8, from -4 to 27.875
Progress = Callable[[int, int], None]
HALF = slice(MAP_STRIDE // 2, None, MAP_STRIDE)  # the pixels of a frame that a map of MAP_STRIDE keeps


@dataclass(frozen=True)
class SceneSet:
    """`count` scenes of one split and style, at the frame times of `spec`; `strides` of the features to keep.

    detail: frames are rendered with this many pixels a side and then enlarged to the size of `spec`, as images from
    stored files are; None: rendered at that size.
    """

    split: str
    count: int
    seed: int
    style: SceneStyle | OpenVocabStyle
    spec: ClipSpec
    detail: int | None = None
    strides: tuple[int, ...] = EfficientNetLite0.strides

    def __post_init__(self) -> None:
        if self.strides != tuple(stride for stride in EfficientNetLite0.strides if stride in self.strides):
            raise ValueError(f"strides are {self.strides}; they must rise, and be of {EfficientNetLite0.strides}")

    @property
    def open_vocab(self) -> bool:
        """True for open-vocabulary scenes, which store more arrays."""
        return isinstance(self.style, OpenVocabStyle)

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and type of each array, in the order of the fields of SceneFeatures or OpenVocabFeatures."""
        size, lead = self.spec.image_size, (self.count, self.spec.frames)
        channels = dict(zip(EfficientNetLite0.strides, EfficientNetLite0.channels, strict=True))
        half, cells = size // MAP_STRIDE, {stride: -(-size // stride) for stride in EfficientNetLite0.strides}
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            f"stride{stride}": ((*lead, cells[stride], cells[stride], channels[stride]), np.float16)
            for stride in self.strides
        }
        shapes["stamp_maps"] = (*lead, half, half), np.uint8
        if self.open_vocab:
            shapes["images"] = (*lead, half, half, 3), np.uint8
            shapes["class_scores"] = (*lead, cells[32], cells[32], CLASSES), np.uint8
        return shapes


@dataclass
class SceneFeatures:
    """pyramid: levels [n,T,h,w,c] float16; stamp_maps [n,T,S/2,S/2] uint8 (0 background, i + 1 stamp i)."""

    scenes: list[Scene]
    pyramid: list[np.ndarray]
    stamp_maps: np.ndarray

    def levels(self, indices: np.ndarray) -> list[Tensor]:
        """Return the levels of some scenes as input of a model, [n,T,c,h,w] float32 each."""
        return [torch.from_numpy(level[indices]).float().permute(0, 1, 4, 2, 3) for level in self.pyramid]


@dataclass
class OpenVocabFeatures(SceneFeatures):
    """images uint8 [n,T,S/2,S/2,3]; class_scores uint8 [n,T,S/32,S/32,1000], read by `dequantize_scores`;
    object_probs uint8 [n,T,20,g,g] of the segmenter, read by `dequantize_probs`.
    """

    images: np.ndarray
    class_scores: np.ndarray
    object_probs: np.ndarray

    def visual(self, indices: np.ndarray) -> VisualFeatures:
        """Return the visual encoder's output for some scenes, [n,T,...] float32."""
        scores, probs = dequantize_scores(self.class_scores[indices]), dequantize_probs(self.object_probs[indices])
        return VisualFeatures(self.levels(indices), scores, probs)

    def object_maps(self, index: int) -> np.ndarray:
        """Return the object numbers of scene `index`, uint8 [T,S/2,S/2]; 0 is the background."""
        return self.scenes[index].object_map(self.stamp_maps[index])

    def masks(self, index: int, word: str) -> np.ndarray:
        """Return the mask of a word in scene `index`: bool [T,S/2,S/2], empty for an absent word."""
        return np.isin(self.object_maps(index), self.scenes[index].objects_named(word))


def dequantize_scores(stored: np.ndarray) -> Tensor:
    """Stored bytes [...,h,w,1000] -> z-scores float32 [...,1000,h,w], within 1/16 of those of DenseClassifier."""
    return ((torch.tensor(stored).float() - _QUANT_ZERO) * _QUANT_STEP).movedim(-1, -3)


def quantize_scores(scores: Tensor) -> np.ndarray:
    """z-scores [N,1000,h,w] -> bytes [N,h,w,1000]."""
    return (scores / _QUANT_STEP + _QUANT_ZERO).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def dequantize_probs(stored: np.ndarray) -> Tensor:
    """Stored bytes -> the segmenter's probabilities, float32."""
    return torch.tensor(stored).float() / 255


def scene_features(
    catalog: Catalog, scene_set: SceneSet, workers: int, progress: Progress = lambda done, total: None
) -> SceneFeatures:
    """Load the features of benchmark scenes from the cache or compute them. progress: scenes done, of all.

    Raises UserError if the disk is full. An unfinished set leaves no files.
    """
    _, scenes, (*pyramid, stamp_maps) = _find_or_compute(catalog, scene_set, workers, progress)
    return SceneFeatures(scenes, pyramid, stamp_maps)


def open_vocab_features(
    catalog: OpenVocabCatalog, scene_set: SceneSet, workers: int, progress: Progress = lambda done, total: None
) -> OpenVocabFeatures:
    """Same as `scene_features` for open-vocabulary scenes; progress then also reports the work of the segmenter."""
    folder, scenes, (*pyramid, stamp_maps, images, scores) = _find_or_compute(catalog, scene_set, workers, progress)
    probs = _object_probs(folder.with_name(f"{folder.name}-objects"), images, progress)
    return OpenVocabFeatures(scenes, pyramid, stamp_maps, images, scores, probs)


def training_seed(run: int, number: int) -> int:
    """Return the seed of training set `number` of a run with the scene seed `run`; no two runs share one."""
    return _MAX_SETS * run + number


def _find_or_compute(
    catalog: Catalog | OpenVocabCatalog, scene_set: SceneSet, workers: int, progress: Progress
) -> tuple[Path, list[Scene], list[np.ndarray]]:
    """Return the folder of the arrays, which differs for every change of their inputs; the scenes; the arrays."""
    inputs = [VERSION, type(scene_set.style).__name__, asdict(scene_set), repr(catalog), list_photographs()]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    folder, scenes = cache_dir() / "features" / digest[:20], []

    def sample(new: Path | None) -> None:
        jobs = [(catalog, scene_set, new, start) for start in range(0, scene_set.count, _CHUNK)]
        for part in in_processes(_compute_chunk, jobs, workers):
            scenes.extend(part)
            progress(len(scenes), scene_set.count)

    def compute(new: Path) -> None:
        _allocate(new, scene_set.shapes)
        sample(new)

    make_once(folder, compute)
    if not scenes:
        sample(None)
    return folder, scenes, load_arrays(folder, scene_set.shapes)


def _allocate(folder: Path, shapes: dict[str, tuple[tuple[int, ...], type]]) -> None:
    need = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
    free = shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise UserError(
            f"{cache_dir()}: {need / 2**30:.1f} GB are needed for cached features and {free / 2**30:.1f} are free; "
            "free some space or set ICF_CACHE to another folder"
        )
    for name, (shape, dtype) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # a disk that fills later would end the process with a bus error
            with open(folder / f"{name}.npy", "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _compute_chunk(job: tuple[Catalog | OpenVocabCatalog, SceneSet, Path | None, int]) -> list[Scene]:
    """Sample _CHUNK scenes; if a folder is given, also render and encode them into its files."""
    catalog, scene_set, folder, start = job
    spec, stop = scene_set.spec, min(start + _CHUNK, scene_set.count)
    sample = sample_open_vocab_scene if scene_set.open_vocab else sample_scene
    sampling = scene_set.seed, scene_set.style, max(1, round(spec.seconds))
    scenes = [sample(catalog, scene_set.split, index, *sampling) for index in range(start, stop)]
    if folder is None:
        return scenes
    arrays = zip(scene_set.shapes, load_arrays(folder, scene_set.shapes, writable=True), strict=True)
    rows = {name: array[start:stop].reshape(-1, *array.shape[2:]) for name, array in arrays}
    moments = [(scene, spec.frame_time(t)) for scene in scenes for t in range(spec.frames)]
    for at in range(0, len(moments), _BATCH):
        batch = _encode(moments[at : at + _BATCH], scene_set)
        for name, row in rows.items():
            row[at : at + _BATCH] = batch[name]
    return scenes


def _encode(moments: list[tuple[Scene, float]], scene_set: SceneSet) -> dict[str, np.ndarray]:
    """Compute the entries of all arrays for some frames, by name."""
    side, detail = scene_set.spec.image_size, scene_set.detail or scene_set.spec.image_size
    rendered = [render_frame(scene, moment, (detail, detail)) for scene, moment in moments]
    images = resize_frames(torch.from_numpy(np.stack([rgb for rgb, _ in rendered])), side)
    maps = [stamp_map for _, stamp_map in rendered]
    if detail != side:
        maps = [render_stamp_map(scene, moment, (side, side)) for scene, moment in moments]
    with torch.inference_mode():
        pyramid = _encoder()(images)
    levels = zip(EfficientNetLite0.strides, pyramid, strict=True)
    batch = {f"stride{stride}": level.permute(0, 2, 3, 1).half().numpy() for stride, level in levels}
    batch["stamp_maps"] = np.stack(maps)[:, HALF, HALF]
    if scene_set.open_vocab:
        batch["images"] = resize_frames(images, side // MAP_STRIDE).numpy()
        batch["class_scores"] = quantize_scores(_classifier()(pyramid[-1]))
    return batch


def _object_probs(folder: Path, images: np.ndarray, progress: Progress) -> np.ndarray:
    """images uint8 [n,T,s,s,3] -> segmenter probabilities as bytes [n,T,20,g,g]; zeros without a segmenter."""
    shape = (*images.shape[:2], VOC_CLASSES, GRID, GRID)
    if not folder.is_dir() and (segmenter := load_segmenter_or_none()) is None:
        return np.zeros(shape, np.uint8)

    def compute(new: Path) -> None:
        probs, frames = np.empty((shape[0] * shape[1], *shape[2:]), np.uint8), images.reshape(-1, *images.shape[2:])
        for at in range(0, len(frames), 2 * _BATCH):
            chunk = slice(at, at + 2 * _BATCH)
            probs[chunk] = (segmenter(torch.tensor(frames[chunk])) * 255).round().byte().numpy()
            progress(min(at + 2 * _BATCH, len(frames)) // shape[1], shape[0])
        save_arrays(new, {"object_probs": probs.reshape(shape)})

    make_once(folder, compute)
    return load_arrays(folder, ["object_probs"])[0]


_encoder = lru_cache(maxsize=1)(load_efficientnet_lite0)


@lru_cache(maxsize=1)
def _classifier() -> DenseClassifier:
    return DenseClassifier(_encoder())
