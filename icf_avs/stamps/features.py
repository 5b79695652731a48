"""Composed scenes with their pictures seen once: frozen features and slots in memory-mapped files, sound left to mix.

Rendering and encoding a picture costs about 30 ms, and a frozen encoder says the same of it every time. So the pyramid
(float16, channels last) and the slots of each scene are computed once, in parallel, and kept in the cache folder; the
same set of scenes is found there again by a digest of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from icf_avs.atomic_io import unfinished_folder
from icf_avs.backbones.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from icf_avs.contracts import ClipSpec
from icf_avs.data.resize import resized
from icf_avs.errors import UserError
from icf_avs.interruption import interrupts_ignored
from icf_avs.stamps.backgrounds import photographs
from icf_avs.stamps.catalog import Catalog
from icf_avs.stamps.made_once import made_once
from icf_avs.stamps.packages import cache_dir
from icf_avs.stamps.rendering import render_frame, render_stamp_map
from icf_avs.stamps.scene import Scene
from icf_avs.stamps.scene_sampler import SceneStyle, sample_scene

VERSION = 1  # raise when rendering or encoding changes
SLOT_STRIDE = 2  # slots are kept at half the picture's size
CHUNK = 16  # scenes that a worker does at a time
VALIDATION_SEED = 0  # whatever the seed of the run, so that scores of runs compare
_SETS = 8  # most sets of training scenes that a run has
Shapes = dict[str, tuple[tuple[int, ...], type]]  # array -> shape and kind of number
Job, Planned = TypeVar("Job"), TypeVar("Planned")


@dataclass(frozen=True)
class SceneSet:
    """`count` scenes of one split and style, seen at the frames of `spec`.

    `detail`: pictures are rendered with this many pixels a side and then enlarged to the size of `spec`, as pictures
    from stored files are; None: rendered at that size.
    """

    split: str
    count: int
    seed: int
    style: SceneStyle
    spec: ClipSpec
    detail: int | None = None


@dataclass
class SceneFeatures:
    """scenes; pyramid: levels [n,T,h,w,c] float16; slots [n,T,S/2,S/2] uint8 (0 background, i+1 stamp i)."""

    scenes: list[Scene]
    pyramid: list[np.ndarray]
    slots: np.ndarray


def scene_features(
    catalog: Catalog, wanted: SceneSet, workers: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> SceneFeatures:
    """Find the features of a scene set in the cache or compute them.

    Raises UserError when the disk is full. A set that was not finished leaves nothing behind.
    """
    name, shapes = _digest(catalog, wanted), _shapes(wanted)
    scenes, arrays = kept_scenes(
        name, shapes, wanted.count, _do_chunk, lambda folder, at: (catalog, wanted, folder, at), workers, progress
    )
    return SceneFeatures(scenes, arrays[:-1], arrays[-1])


def kept_scenes(
    name: str,
    shapes: Shapes,
    count: int,
    do_chunk: Callable[[Job], list[Planned]],
    job: Callable[[Path | None, int], Job],
    workers: int,
    progress: Callable[[int, int], None],
) -> tuple[list[Planned], list[np.ndarray]]:
    """`count` planned scenes, and the arrays of `shapes` that say what they look like, from the cache or made now.

    `name` tells this set from all others. `job(folder, start)` is given to `do_chunk`, in a process of its own where
    there are workers; that plans CHUNK scenes from `start` on and, if folder is not None, fills their rows of the
    files FOLDER/ARRAY.npy. Raises UserError as `scene_features` does.
    """
    folder = kept_folder(name)

    def planned(target: Path | None) -> list[Planned]:
        scenes: list[Planned] = []
        for part in _map(do_chunk, [job(target, start) for start in range(0, count, CHUNK)], workers):
            scenes += part
            progress(len(scenes), count)
        return scenes

    try:
        with nullcontext() if folder.is_dir() else made_once(folder):
            if folder.is_dir():
                scenes = planned(None)
            else:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with unfinished_folder(folder.parent) as new:
                    _allocate(new, shapes)
                    scenes = planned(new)
                    os.replace(new, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot keep the features of {count} scenes ({error.strerror}); make room or "
            "set ICF_CACHE to another folder"
        ) from error
    return scenes, [np.load(folder / f"{array}.npy", mmap_mode="r") for array in shapes]


def training_seed(run: int, number: int) -> int:
    """Seed of set `number` of the training scenes of a run with the scene seed `run`: no two runs share one."""
    return _SETS * run + number


def kept_folder(name: str) -> Path:
    """Where the arrays of a set of scenes are kept."""
    return cache_dir() / "features" / name


def _shapes(wanted: SceneSet) -> Shapes:
    size, lead = wanted.spec.image_size, (wanted.count, wanted.spec.frames)
    levels = {
        f"stride{stride}": ((*lead, size // stride, size // stride, channels), np.float16)
        for stride, channels in zip(EfficientNetLite0.strides, EfficientNetLite0.channels, strict=True)
    }
    return levels | {"slots": ((*lead, size // SLOT_STRIDE, size // SLOT_STRIDE), np.uint8)}


def _allocate(folder: Path, shapes: Shapes) -> None:
    need = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    try:
        free = shutil.disk_usage(folder).free
        if free < need * 1.05:
            raise UserError(
                f"{folder.parent}: {need / 2**30:.1f} GB are needed for cached features and {free / 2**30:.1f} "
                "are free; make room or set ICF_CACHE to another folder"
            )
        for name, (shape, kind) in shapes.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
            if hasattr(os, "posix_fallocate"):  # a disk that fills later would end the process with a bus error
                with open(folder / f"{name}.npy", "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot write ({error.strerror}); set ICF_CACHE to another folder") from error


def _digest(catalog: Catalog, wanted: SceneSet) -> str:
    kinds = [asdict(kind) for kind in catalog.kinds]
    facts = [VERSION, str(catalog.root), kinds, catalog.distractors, sorted(photographs()), asdict(wanted)]
    content = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def _map(function: Callable, jobs: Sequence, workers: int):
    """Results in order of the jobs; in processes of their own when there is more than one worker."""
    if workers <= 1:
        yield from map(function, jobs)
        return
    # Threads of torch do not survive a fork, so the workers are spawned.
    with interrupts_ignored():
        pool = multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread)
    with pool:
        yield from pool.imap(function, jobs)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _do_chunk(job: tuple[Catalog, SceneSet, Path | None, int]) -> list[Scene]:
    """Plan CHUNK scenes; where a folder is given, render and encode them into its files too."""
    catalog, wanted, folder, start = job
    stop = min(start + CHUNK, wanted.count)
    seconds = max(1, round(wanted.spec.seconds))
    scenes = [
        sample_scene(catalog, wanted.split, index, wanted.seed, wanted.style, seconds) for index in range(start, stop)
    ]
    if folder is None:
        return scenes
    side, detail = wanted.spec.image_size, wanted.detail or wanted.spec.image_size
    moments = [(scene, wanted.spec.frame_time(t)) for scene in scenes for t in range(wanted.spec.frames)]
    rendered = [render_frame(scene, moment, (detail, detail)) for scene, moment in moments]
    frames = resized(torch.from_numpy(np.stack([rgb for rgb, _ in rendered])), side)
    maps = [slots for _, slots in rendered]
    if detail != side:
        maps = [render_stamp_map(scene, moment, (side, side)) for scene, moment in moments]
    with torch.inference_mode():
        levels = [torch.cat(parts) for parts in zip(*(encoder()(some) for some in frames.split(16)), strict=True)]
    lead = (len(scenes), wanted.spec.frames)
    for name, level in zip(_shapes(wanted), levels, strict=False):
        array = np.load(folder / f"{name}.npy", mmap_mode="r+")
        array[start:stop] = level.permute(0, 2, 3, 1).unflatten(0, lead).half().numpy()
    array = np.load(folder / "slots.npy", mmap_mode="r+")
    slots = np.stack([slots[SLOT_STRIDE // 2 :: SLOT_STRIDE, SLOT_STRIDE // 2 :: SLOT_STRIDE] for slots in maps])
    array[start:stop] = slots.reshape(*lead, *slots.shape[1:])
    return scenes


_ENCODER: list[EfficientNetLite0] = []


def encoder() -> EfficientNetLite0:
    """One encoder a process."""
    if not _ENCODER:
        _ENCODER.append(load_efficientnet_lite0())
    return _ENCODER[0]
