"""Where the batches of a run on word scenes come from."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from icf_avs.backbones.efficientat import load_efficientat
from icf_avs.backbones.heard_words import HeardWords, audio_words
from icf_avs.backbones.registry import embed_names
from icf_avs.config import EvidenceConfig, TrainConfig
from icf_avs.contracts import Batch, ClipSpec
from icf_avs.stamps.batches import joined
from icf_avs.stamps.catalog import load_catalog
from icf_avs.stamps.open_vocab_sampler import NATURAL, sample_open_vocab_scene
from icf_avs.stamps.rendering import render_frame
from icf_avs.stamps.scene_features import (
    MAP_STRIDE,
    VALIDATION_SEED,
    OpenVocabFeatures,
    SceneSet,
    open_vocab_features,
    training_seed,
)  # fmt: skip
from icf_avs.stamps.tagger_cache import heard_sounds
from icf_avs.stamps.word_batches import Words, word_batch
from icf_avs.stamps.word_catalog import HELD_OUT, WordCatalog, load_word_catalog
from icf_avs.training.calibrate import calibrate
from icf_avs.training.data import Evaluator, Report, Sample
from icf_avs.training.validation import scene_evaluator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icf_avs.networks.segmentation_model import SegmentationModel


def vocabulary(catalog: WordCatalog) -> tuple[str, ...]:
    """What may be heard, and all that a picture may be asked for: words that training does not know included."""
    shown = {word for stamp in catalog.stamps for word in (*stamp.words, *stamp.generic)}
    heard = audio_words()
    return (*heard, *sorted(shown - set(heard)))


def training_words(catalog: WordCatalog, text: str, akin: float) -> Words:
    """The vocabulary for batches, embedded by the encoder `text`. Words that training must not know may not be said."""
    words = vocabulary(catalog)
    unknown = {word for stamp in catalog.held_out for word in stamp.words} - set(catalog.training_words)
    nameable = np.array([word not in unknown for word in words])
    of_kind = {stamp.kind: words.index(stamp.word) for stamp in reversed(catalog.stamps) if stamp.kind}
    return Words(words, embed_names(text, words), nameable, of_kind, akin)


class WordData:
    """Pictures, clips and validation scenes, and the library of what is heard. All is made, or found in the cache, at
    once.
    """

    origin = "composed word scenes (tuxpaint-stamps-default), not natural video"
    licence = "weights Apache-2.0; learnt from Tux Paint stamps (GPL-2 and the licences of single items)"

    def __init__(self, config: TrainConfig, stamps: Path | None, workers: int, report: Report) -> None:
        self.config, sizes = config, config.words
        self.catalog = load_word_catalog(stamps, HELD_OUT if sizes.held_out else ())
        evidence = EvidenceConfig(**(config.model["evidence"] or {}))
        self.words = training_words(self.catalog, config.text, evidence.akin)
        self.classes = self.words.words
        hears = HeardWords(load_efficientat(None, config.spec.sample_rate), self.classes)
        known = self.catalog.training_kinds
        self.sounds = heard_sounds(
            load_catalog(stamps), "train", hears, only=known, progress=lambda *at: report("listening", *at, {})
        )

        def scenes(name: str, split: str, count: int, seed: int, spec: ClipSpec) -> OpenVocabFeatures:
            wanted = SceneSet(split, count, seed, NATURAL, spec)
            return open_vocab_features(self.catalog, wanted, workers, lambda *at: report(name, *at, {}))

        picture, moving = spec_of_pictures(replace(config.spec, frames=1)), spec_of_pictures(config.spec)
        self.pictures = scenes("pictures", "train", sizes.pictures, training_seed(config.scene_seed, 0), picture)
        self.clips = scenes("clips", "train", sizes.clips, training_seed(config.scene_seed, 1), moving)
        self.unseen = scenes("validation", "val", sizes.validation, VALIDATION_SEED, picture)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Part number `part` of the batch of a step: a function of the run's seed and these numbers."""
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        features = self.clips if rng.random() < config.clip_share else self.pictures
        size = config.clips_of(features.stamp_maps.shape[1])
        indices = rng.choice(len(features.scenes), min(size, len(features.scenes)), replace=False)
        drawn = (  # each scene by a chance of its own, whatever part it is in
            word_batch(
                features, np.array([at]), self.words, self.sounds, np.random.default_rng([config.seed, step, at])
            )
            for at in np.sort(indices)[part::parts]
        )
        return joined(list(drawn))

    def validate(self, model: SegmentationModel) -> dict[str, float]:
        """Calibrate the model on the validation scenes; its scores there."""
        return asdict(calibrate(model, self.validation()))

    def evaluator(self) -> Evaluator:
        """On the first eight batches of `validation`."""
        return scene_evaluator(list(islice(self.validation(), 8)))

    def samples(self, count: int) -> list[Sample]:
        """Scenes of the validation split as clips, each with tags that are predicted in it."""
        spec, seed = self.config.final_spec, VALIDATION_SEED
        size, seconds = (spec.image_size, spec.image_size), max(1, round(spec.seconds))
        scenes = [sample_open_vocab_scene(self.catalog, "val", index, seed, NATURAL, seconds) for index in range(count)]
        rendered = [[render_frame(scene, spec.frame_time(t), size) for t in range(spec.frames)] for scene in scenes]
        frames, stamp_maps = (np.stack([[frame[part] for frame in clip] for clip in rendered]) for part in (0, 1))
        half, unseen = slice(MAP_STRIDE // 2, None, MAP_STRIDE), np.zeros((count, spec.frames, 0, 0, 0), np.uint8)
        maps = stamp_maps[:, :, half, half]
        features = OpenVocabFeatures(scenes, [], maps, frames, unseen, unseen)  # for their masks alone
        rng = np.random.default_rng(seed)
        batch = word_batch(features, np.arange(count), self.words, self.sounds, rng, noisy=False)
        return [
            Sample(torch.from_numpy(f), s, m, True) for f, s, m in zip(frames, batch.sound, batch.masks, strict=True)
        ]

    def validation(self) -> Iterator[Batch]:
        """Scenes of the validation split, eight at a time; the same words are heard every time."""
        rng = np.random.default_rng(VALIDATION_SEED)
        for start in range(0, len(self.unseen.scenes), 8):
            indices = np.arange(start, min(start + 8, len(self.unseen.scenes)))
            yield word_batch(self.unseen, indices, self.words, self.sounds, rng, noisy=False, more=0)


def spec_of_pictures(spec: ClipSpec) -> ClipSpec:
    """The part of a clip specification that pictures depend on, so that they are found again whatever the sound is."""
    return ClipSpec(frames=spec.frames, fps=spec.fps, image_size=spec.image_size, phase=spec.phase)
