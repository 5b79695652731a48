"""Training batches and validation of a public set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icf_avs.atomic_io import cache_dir
from icf_avs.config import TrainConfig
from icf_avs.datasets.custom_dataset import is_custom_dataset
from icf_avs.datasets.dataset import ClipDataset, FrameFeatures, collate
from icf_avs.datasets.layouts import TABLES, class_names, find_table, is_stamps, read_set
from icf_avs.datasets.video_clip import ClipRecord
from icf_avs.encoders.registry import build_visual
from icf_avs.errors import UserError
from icf_avs.evaluation.evaluate import evaluate
from icf_avs.inference.predictor import Predictor
from icf_avs.training.accelerator import processes
from icf_avs.training.data_protocol import Evaluator, Sample
from icf_avs.types import Batch

if TYPE_CHECKING:
    from icf_avs.networks.segmentation_model import SegmentationModel

EVALUATION_CLIPS = 64  # clips scored during a run


class BenchmarkData:
    """Training clips, reshuffled every epoch; the val split for the final scores."""

    def __init__(self, config: TrainConfig, root: Path | None, workers: int) -> None:
        self.root = root = check_set(config, root)
        records = read_set(root, "train", config.benchmark.audio_source)
        self.classes = class_names(root)
        # as in `run.train`: without class names the audio encoder cannot be pretrained
        self.config = config if self.classes else replace(config, audio_pretrain_steps=0)
        composed = ", composed Stamps scenes" * is_stamps(root)
        self.origin = f"{config.benchmark.layout} layout, {len(records)} training clips{composed}"
        self.licence = "weights follow the terms of the set they were trained on"
        self.clips = ClipDataset(records, self.classes, config.spec, config.benchmark.audio_source)
        self.features = self._features(records)
        self.size = config.clips_of(config.spec.frames)
        self._workers = ThreadPoolExecutor(max(1, workers))

    def _features(self, records: Sequence[ClipRecord]) -> FrameFeatures | None:
        """Return cached features of a frozen encoder; None if it is trained, runs on a GPU, or the disk is full."""
        model = self.config.model
        if model.train_visual or processes().device.type != "cpu":
            return None
        encoder = build_visual(model.visual)
        try:
            return FrameFeatures(records, encoder, self.config.spec.image_size, cache_dir() / "features")
        except OSError:
            return None

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """See `Data.batch`. Batches for pretraining the audio encoder have no images."""
        indices = _clip_indices(self.config.seed, step * self.size, self.size, len(self.clips))
        load = partial(self._clip, with_frames=self.config.stage(step) != "pretrain")
        frames = max(len(self.clips.records[index].frame_paths) for index in indices)  # the same in all parts
        return collate(list(self._workers.map(load, indices[part::parts])), frames)

    def _clip(self, index: int, with_frames: bool) -> Batch:
        if self.features is None or not with_frames:
            return self.clips.clip(index, with_frames)
        return replace(self.clips.clip(index, with_frames=False), pyramid=self.features(index))

    def _validation(self, count: int | None = None) -> list[ClipRecord]:
        """Return the first `count` clips of the val split; None: all."""
        return read_set(self.root, "val", self.clips.audio)[:count]

    def validate(self, model: SegmentationModel) -> dict[str, float]:
        """Return strict scores on the val split: mIoU, F, and the share segmented where nothing sounds."""
        return _scores(model, self._validation())

    def evaluator(self) -> Evaluator:
        """Return an evaluator whose score is the strict mIoU on the first clips of the val split."""
        records = self._validation(EVALUATION_CLIPS)

        def evaluator(model: SegmentationModel) -> dict[str, float]:
            scores = _scores(model, records)
            return {name: x for name, x in {"score": scores["miou"], **scores}.items() if not math.isnan(x)}

        return evaluator

    def samples(self, count: int) -> list[Sample]:
        """Return the first clips of the val split."""
        clips = ClipDataset(self._validation(count), self.classes, self.config.final_spec, self.clips.audio)
        loaded = [clips[index] for index in range(len(clips))]
        sounds = [clip.waveforms if clip.log_mel is None else clip.log_mel for clip in loaded]
        return [Sample(clip.frames, sound, clip.masks) for clip, sound in zip(loaded, sounds, strict=True)]


def _scores(model: SegmentationModel, records: Sequence[ClipRecord]) -> dict[str, float]:
    scores = evaluate(Predictor(model), records)["strict"]
    return {name: scores[name] for name in ("miou", "f", "fpr_empty")}


def check_set(config: TrainConfig, root: Path | None) -> Path:
    """Return the folder of the set that a recipe trains on, without reading any file in it. Raises UserError if the
    folder holds no set, or one of another layout.
    """
    layout = config.benchmark.layout
    what = "videos of your own" if layout == "own" else f"a set in the layout of {layout}"
    contents = {"own": "videos/ and masks/"} | {layout: table for table, (layout, _) in TABLES.items()}
    advice = f"recipe {config.name} trains on {what}: name the folder with --data; it holds {contents[layout]}"
    if root is None or not any((root / name).exists() for name in (*TABLES, "videos", "masks")):
        problem = "" if root is None else f"{root}: {'no set is in it' if root.is_dir() else 'no such folder'}; "
        raise UserError(f"{problem}{advice}")
    actual = "own" if is_custom_dataset(root) else TABLES[find_table(root).name][0]
    if actual != layout:
        fitting = {"own": "own", "AVSS": "composed or avss-pvt"}.get(actual, f"{actual.lower()}-pvt")
        raise UserError(f"{root}: holds {contents[actual]}, for recipe {fitting}; {advice}")
    return root


def _clip_indices(seed: int, first: int, count: int, clips: int) -> list[int]:
    """Return elements first .. first + count - 1 of an endless sequence of shuffled epochs."""
    indices: list[int] = []
    while len(indices) < count:
        epoch, position = divmod(first + len(indices), clips)
        shuffled = np.random.default_rng([seed, epoch]).permutation(clips)
        indices += shuffled[position : position + count - len(indices)].tolist()
    return indices
