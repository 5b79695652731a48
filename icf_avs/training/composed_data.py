"""Training batches and validation of composed scenes. Scenes are rendered, or read from the cache, at the start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from icf_avs.config import EvidenceConfig, TrainConfig
from icf_avs.encoders.registry import embed_names
from icf_avs.encoders.tagger_encoder import WordTagger, audio_words
from icf_avs.encoders.taggers import load_tagger
from icf_avs.media.audio_windows import clip_windows
from icf_avs.synthetic.audio_augment import PLAIN, VARIED
from icf_avs.synthetic.batches import concat_batches, make_batch, render_clip
from icf_avs.synthetic.catalog import HELD_OUT, OpenVocabCatalog, load_catalog, load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_batches import Vocabulary, open_vocab_batch
from icf_avs.synthetic.open_vocab_sampler import NATURAL, sample_open_vocab_scene
from icf_avs.synthetic.rendering import render_frame
from icf_avs.synthetic.scene_features import (
    VALIDATION_SEED,
    OpenVocabFeatures,
    SceneFeatures,
    SceneSet,
    open_vocab_features,
    scene_features,
    training_seed,
)
from icf_avs.synthetic.scene_sampler import BALANCED, HARD, TRAIN, SceneStyle, sample_scene
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.synthetic.tagger_cache import tagger_outputs
from icf_avs.training.calibrate import calibrate
from icf_avs.training.data_protocol import Evaluator, Report, Sample
from icf_avs.types import MAP_STRIDE, Batch, ClipSpec

if TYPE_CHECKING:
    from icf_avs.networks.segmentation_model import SegmentationModel

STORED_SIZE = 224  # side of an image in files of the S4 and MS3 layouts, pixels


class ComposedData:
    """Base class of the two data sets of composed scenes."""

    config: TrainConfig
    num_val_batches: int  # validation batches scored during a run
    licence = "weights Apache-2.0; learnt from Tux Paint stamps (GPL-2 and the licences of single items)"

    def validation(self) -> Iterator[Batch]:
        """Yield batches of eight validation scenes, the same for every run."""
        raise NotImplementedError

    def validate(self, model: SegmentationModel) -> dict[str, float]:
        """Calibrate the model on the validation scenes and return its scores there."""
        return asdict(calibrate(model, self.validation()))

    def evaluator(self) -> Evaluator:
        """Return an evaluator: G-mIoU at the best offset on the first batches. It leaves the model calibrated to it."""
        batches = list(islice(self.validation(), self.num_val_batches))

        def evaluator(model: SegmentationModel) -> dict[str, float]:
            calibration = calibrate(model, batches)
            suppressed = 1 - calibration.miou_foreign
            score = 2 * calibration.miou * suppressed / max(1e-6, calibration.miou + suppressed)
            return {"score": score, **asdict(calibration)}

        return evaluator


class StampsData(ComposedData):
    """Images and clips for each training stage, and clips for validation."""

    num_val_batches = 2
    origin = "composed Stamps scenes (tuxpaint-stamps-default), not natural video"

    def __init__(self, config: TrainConfig, stamps: Path | None, workers: int, report: Report) -> None:
        self.config = config
        self.catalog = load_catalog(stamps)
        self.classes = self.catalog.class_names
        self.sounds = VARIED if config.data.audio_augment else PLAIN
        self.bank = SoundBank(self.catalog, "train")
        self.bank.prepare_all(self.sounds)
        self._workers, self._report = workers, report
        self.hard: dict[str, SceneFeatures] = {}  # by name of the set that they extend
        sizes, spec, final = config.data, config.spec, config.final_spec
        self.images = self._training_scenes("images", sizes.images, 0, replace(spec, frames=1))
        self.clips = self._training_scenes("clips", sizes.clips, 1, spec)
        if config.highres_steps:
            # Last stage: images are as sharp as its size; clips, half of the steps, are enlarged from STORED_SIZE.
            self.highres_images = self._training_scenes(
                "highres_images", sizes.highres_images, 2, replace(final, frames=1)
            )
            self.highres_clips = self._training_scenes("highres_clips", sizes.highres_clips, 3, final, STORED_SIZE)

    def _training_scenes(
        self, name: str, count: int, number: int, spec: ClipSpec, detail: int | None = None
    ) -> SceneFeatures:
        def render(style: SceneStyle, count: int, number: int) -> SceneFeatures:
            seed = training_seed(self.config.scene_seed, number)
            return self._scenes(name, SceneSet("train", count, seed, style, spec, detail))

        if added := round(self.config.data.hard_fraction * count):
            self.hard[name] = render(HARD, added, 4 + number)
        return render(TRAIN, count, number)

    def _scenes(self, name: str, scene_set: SceneSet) -> SceneFeatures:
        return scene_features(self.catalog, scene_set, self._workers, lambda *at: self._report(name, *at, {}))

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """See `Data.batch`."""
        config, stage = self.config, self.config.stage(step)
        pretraining, finishing = stage == "pretrain", stage == "highres"
        rng = np.random.default_rng([config.seed, int(pretraining), step])
        as_clips = not pretraining and rng.random() < (config.highres_clip_share if finishing else config.clip_share)
        spec = config.final_spec if finishing else config.spec
        name = ("highres_" if finishing else "") + ("clips" if as_clips else "images")
        spec = spec if as_clips else replace(spec, frames=1)
        sets = [getattr(self, name), *([self.hard[name]] if name in self.hard else [])]
        size = config.audio_pretrain_batch if pretraining else config.clips_of(spec.frames)
        total = sum(len(features.scenes) for features in sets)
        indices = rng.choice(total, min(size, total), replace=False)
        variation = int(rng.integers(1, 2**31))
        remaining = np.sort(indices)[part::parts]
        drawn: list[Batch] = []
        for features in sets:
            count = len(features.scenes)
            in_set, remaining = remaining[remaining < count], remaining[remaining >= count] - count
            if len(in_set):
                arguments = (features, in_set, self.bank, spec, len(self.classes), variation)
                drawn.append(make_batch(*arguments, with_images=not pretraining, style=self.sounds))
        return concat_batches(drawn)

    def samples(self, count: int) -> list[Sample]:
        """The first scenes of `validation`."""
        spec, clips = self.config.final_spec, []
        for index in range(min(count, self.config.data.validation)):
            seconds = max(1, round(spec.seconds))
            scene = sample_scene(self.catalog, "val", index, VALIDATION_SEED, BALANCED, seconds)
            clip = render_clip(scene, self.bank, spec)
            parts = clip.frames, clip_windows(clip.waveform, spec, spec.frames), clip.masks.astype(np.float32)
            clips.append(Sample(*(torch.from_numpy(part) for part in parts)))
        return clips

    def validation(self) -> Iterator[Batch]:
        """Yield batches of eight balanced validation scenes, with the detail of stored files."""
        data, spec = self.config.data, self.config.final_spec
        scene_set = SceneSet("val", data.validation, VALIDATION_SEED, BALANCED, spec, STORED_SIZE)
        features = self._scenes("validation", scene_set)
        for start in range(0, data.validation, 8):
            indices = np.arange(start, min(start + 8, data.validation))
            yield make_batch(features, indices, self.bank, spec, len(self.classes), variation=0)


class OpenVocabData(ComposedData):
    """Images, clips and validation scenes with words, and the tagger's predictions for recordings."""

    num_val_batches = 8
    origin = "composed word scenes (tuxpaint-stamps-default), not natural video"

    def __init__(self, config: TrainConfig, stamps: Path | None, workers: int, report: Report) -> None:
        self.config, sizes = config, config.words
        self.catalog = load_open_vocab_stamps(stamps, HELD_OUT if sizes.held_out else ())
        evidence = config.model.evidence or EvidenceConfig()
        self.words = training_words(self.catalog, config.text_encoder, evidence.synonym_threshold)
        self.classes = self.words.words
        tagger = WordTagger(load_tagger(config.model.audio), self.classes)
        known, progress = self.catalog.training_classes, lambda *at: report("tagging", *at, {})
        self.sounds = tagger_outputs(load_catalog(stamps), "train", tagger, only=known, progress=progress)

        def scenes(name: str, split: str, count: int, seed: int, spec: ClipSpec) -> OpenVocabFeatures:
            scene_set = SceneSet(split, count, seed, NATURAL, spec)
            return open_vocab_features(self.catalog, scene_set, workers, lambda *at: report(name, *at, {}))

        single, moving = image_spec(replace(config.spec, frames=1)), image_spec(config.spec)
        self.images = scenes("images", "train", sizes.images, training_seed(config.scene_seed, 0), single)
        self.clips = scenes("clips", "train", sizes.clips, training_seed(config.scene_seed, 1), moving)
        self.validation_features = scenes("validation", "val", sizes.validation, VALIDATION_SEED, single)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """See `Data.batch`."""
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        features = self.clips if rng.random() < config.clip_share else self.images
        size = config.clips_of(features.stamp_maps.shape[1])
        indices = rng.choice(len(features.scenes), min(size, len(features.scenes)), replace=False)
        drawn: list[Batch] = []
        for index in np.sort(indices)[part::parts]:  # one generator per scene: independent of the split into parts
            scene_rng = np.random.default_rng([config.seed, step, index])
            drawn.append(open_vocab_batch(features, np.array([index]), self.words, self.sounds, scene_rng))
        return concat_batches(drawn)

    def samples(self, count: int) -> list[Sample]:
        """Return scenes of the validation split as clips, each with the tags predicted in it."""
        spec, seed = self.config.final_spec, VALIDATION_SEED
        size, seconds = (spec.image_size, spec.image_size), max(1, round(spec.seconds))
        scenes = [sample_open_vocab_scene(self.catalog, "val", index, seed, NATURAL, seconds) for index in range(count)]
        rendered = [[render_frame(scene, spec.frame_time(t), size) for t in range(spec.frames)] for scene in scenes]
        frames, stamp_maps = (np.stack([[frame[part] for frame in clip] for clip in rendered]) for part in (0, 1))
        half, empty = slice(MAP_STRIDE // 2, None, MAP_STRIDE), np.zeros((count, spec.frames, 0, 0, 0), np.uint8)
        features = OpenVocabFeatures(scenes, [], stamp_maps[:, :, half, half], frames, empty, empty)  # for masks only
        rng = np.random.default_rng(seed)
        batch = open_vocab_batch(features, np.arange(count), self.words, self.sounds, rng, noisy=False)
        parts = zip(frames, batch.sound, batch.masks, strict=True)
        return [Sample(torch.from_numpy(clip), sound, masks, True) for clip, sound, masks in parts]

    def validation(self) -> Iterator[Batch]:
        """Yield batches of eight validation scenes; the same words are queried every time."""
        rng = np.random.default_rng(VALIDATION_SEED)
        for start in range(0, len(self.validation_features.scenes), 8):
            indices = np.arange(start, min(start + 8, len(self.validation_features.scenes)))
            yield open_vocab_batch(
                self.validation_features, indices, self.words, self.sounds, rng, noisy=False, extra_queries=0
            )


def vocabulary(catalog: OpenVocabCatalog) -> tuple[str, ...]:
    """Return the words of sounds, then all other words of images, including those unknown to training."""
    visible = {word for stamp in catalog.stamps for word in (*stamp.words, *stamp.generic)}
    audible = audio_words()
    return (*audible, *sorted(visible - set(audible)))


def training_words(catalog: OpenVocabCatalog, text: str, synonym_threshold: float) -> Vocabulary:
    """Return the vocabulary for batches, embedded by the encoder `text`. Words unknown to training are not nameable."""
    words = vocabulary(catalog)
    unknown = {word for stamp in catalog.held_out for word in stamp.words} - set(catalog.training_words)
    nameable = np.array([word not in unknown for word in words])
    named = [stamp for stamp in reversed(catalog.stamps) if stamp.class_name]
    word_of_class = {stamp.class_name: words.index(stamp.word) for stamp in named}
    return Vocabulary(words, embed_names(text, words), nameable, word_of_class, synonym_threshold)


def image_spec(spec: ClipSpec) -> ClipSpec:
    """Return the part of a clip specification that affects images, so that cached images fit any audio settings."""
    return ClipSpec(frames=spec.frames, fps=spec.fps, image_size=spec.image_size, phase=spec.phase)
