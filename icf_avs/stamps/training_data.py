"""Where the batches of a run on composed scenes come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from icf_avs.config import TrainConfig
from icf_avs.contracts import Batch, ClipSpec
from icf_avs.data.windows import windows
from icf_avs.stamps.batches import joined, make_batch
from icf_avs.stamps.catalog import load_catalog
from icf_avs.stamps.clip_renderer import render_clip
from icf_avs.stamps.scene_features import VALIDATION_SEED, SceneFeatures, SceneSet, scene_features, training_seed
from icf_avs.stamps.scene_sampler import BALANCED, HARD, TRAIN, SceneStyle, sample_scene
from icf_avs.stamps.sound_variation import PLAIN, VARIED
from icf_avs.stamps.sounds import SoundBank
from icf_avs.training.calibrate import calibrate
from icf_avs.training.data import Evaluator, Report, Sample
from icf_avs.training.validation import scene_evaluator

if TYPE_CHECKING:
    from icf_avs.networks.segmentation_model import SegmentationModel

STORED_SIZE = 224  # of a picture in files of the S4 and MS3 layouts


class StampsData:
    """Pictures and clips of each stage, and clips for validation. All is rendered, or found in the cache, at once."""

    origin = "composed Stamps scenes (tuxpaint-stamps-default), not natural video"
    licence = "weights Apache-2.0; learnt from Tux Paint stamps (GPL-2 and the licences of single items)"

    def __init__(self, config: TrainConfig, stamps: Path | None, workers: int, report: Report) -> None:
        self.config = config
        self.catalog = load_catalog(stamps)
        self.classes = self.catalog.class_names
        self.sounds = VARIED if config.data.varied else PLAIN
        self.bank = SoundBank(self.catalog, "train")
        self.bank.warm(self.sounds)
        self._workers, self._report = workers, report
        self.hard: dict[str, SceneFeatures] = {}  # by the name of the set that they are added to
        sizes, spec, final = config.data, config.spec, config.final_spec
        self.pictures = self._train("pictures", sizes.pictures, 0, replace(spec, frames=1))
        self.clips = self._train("clips", sizes.clips, 1, spec)
        if config.finish:
            # Half of what the last stage sees is as sharp as its size, half is enlarged from the size of stored files.
            self.finish_pictures = self._train("finish_pictures", sizes.finish_pictures, 2, replace(final, frames=1))
            self.finish_clips = self._train("finish_clips", sizes.finish_clips, 3, final, STORED_SIZE)

    def _train(self, name: str, count: int, number: int, spec: ClipSpec, detail: int | None = None) -> SceneFeatures:
        def of(style: SceneStyle, count: int, number: int) -> SceneFeatures:
            seed = training_seed(self.config.scene_seed, number)
            return self._scenes(name, SceneSet("train", count, seed, style, spec, detail))

        added = round(self.config.data.hard * count)
        if added:
            self.hard[name] = of(HARD, added, 4 + number)
        return of(TRAIN, count, number)

    def _scenes(self, name: str, wanted: SceneSet) -> SceneFeatures:
        return scene_features(self.catalog, wanted, self._workers, lambda *at: self._report(name, *at, {}))

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Part number `part` of the batch of a step: a function of the run's seed and these numbers."""
        config, stage = self.config, self.config.stage(step)
        teaching, finishing = stage == "teach", stage == "finish"
        rng = np.random.default_rng([config.seed, int(teaching), step])
        as_clips = not teaching and rng.random() < (config.finish_clip_share if finishing else config.clip_share)
        spec = config.final_spec if finishing else config.spec
        name = ("finish_" if finishing else "") + ("clips" if as_clips else "pictures")
        spec = spec if as_clips else replace(spec, frames=1)
        sets = [getattr(self, name), *([self.hard[name]] if name in self.hard else [])]
        size = config.teach_batch if teaching else config.clips_of(spec.frames)
        total = sum(len(features.scenes) for features in sets)
        indices = rng.choice(total, min(size, total), replace=False)
        variation = int(rng.integers(1, 2**31))
        mine = np.sort(indices)[part::parts]
        drawn: list[Batch] = []
        for features in sets:
            count = len(features.scenes)
            here, mine = mine[mine < count], mine[mine >= count] - count
            if len(here):
                of_set = (features, here, self.bank, spec, len(self.classes), variation)
                drawn.append(make_batch(*of_set, pictures=not teaching, style=self.sounds))
        return joined(drawn)

    def validate(self, model: SegmentationModel) -> dict[str, float]:
        """Calibrate the model on the validation scenes; its scores there."""
        return asdict(calibrate(model, self.validation()))

    def evaluator(self) -> Evaluator:
        """On the first two batches of `validation`."""
        return scene_evaluator(list(islice(self.validation(), 2)))

    def samples(self, count: int) -> list[Sample]:
        """The first scenes of `validation`."""
        spec, found = self.config.final_spec, []
        for index in range(min(count, self.config.data.validation)):
            seconds = max(1, round(spec.seconds))
            scene = sample_scene(self.catalog, "val", index, VALIDATION_SEED, BALANCED, seconds)
            clip = render_clip(scene, self.bank, spec)
            waves = windows(clip.waveform, spec, spec.frames)
            parts = clip.frames, waves, clip.masks.astype(np.float32)
            found.append(Sample(*(torch.from_numpy(part) for part in parts)))
        return found

    def validation(self) -> Iterator[Batch]:
        """Balanced scenes of the validation split as stored files show them, eight at a time."""
        data, spec = self.config.data, self.config.final_spec
        wanted = SceneSet("val", data.validation, VALIDATION_SEED, BALANCED, spec, STORED_SIZE)
        features = self._scenes("validation", wanted)
        for start in range(0, data.validation, 8):
            indices = np.arange(start, min(start + 8, data.validation))
            yield make_batch(features, indices, self.bank, spec, len(self.classes), variation=0)
