"""A few validation clips to look at while a run goes on: picture, truth, and what the model marks now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from icf_avs.inference.predictor import Predictor
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.output.overlay import Overlay
from icf_avs.training.data import Data

if TYPE_CHECKING:
    from icf_avs.avsbench.training_data import BenchmarkData
    from icf_avs.stamps.training_data import StampsData
    from icf_avs.stamps.word_data import WordData

CLIPS, COLUMNS, SIDE, GAP = 4, 5, 112, 4  # of a sheet; SIDE and GAP in pixels


@dataclass(frozen=True)
class Sample:
    """frames uint8 [T,S,S,3]; sound, waves [T,N], log-mel [T,96,64] or, with has_tags, tags [T,C]; masks [T,h,w] float
    in [0,1].
    """

    frames: Tensor
    sound: Tensor
    masks: Tensor
    has_tags: bool = False


def sample_clips(data: Data) -> list[Sample]:
    """The first validation clips of a run's data; none where it has no pictures to show."""
    from icf_avs.stamps.training_data import StampsData
    from icf_avs.stamps.word_data import WordData

    if data.config.benchmark is not None:
        return _stored(data)
    if isinstance(data, WordData):
        return _of_words(data)
    if isinstance(data, StampsData):
        return [_rendered(data, index) for index in range(min(CLIPS, data.config.data.validation))]
    return []


def _rendered(data: StampsData, index: int) -> Sample:
    """A scene of `StampsData.validation`."""
    from icf_avs.data.windows import windows
    from icf_avs.stamps.clip_renderer import render_clip
    from icf_avs.stamps.scene_features import VALIDATION_SEED
    from icf_avs.stamps.scene_sampler import BALANCED, sample_scene

    spec = data.config.final_spec
    scene = sample_scene(data.catalog, "val", index, VALIDATION_SEED, BALANCED, max(1, round(spec.seconds)))
    clip = render_clip(scene, data.bank, spec)
    waves = windows(clip.waveform, spec, spec.frames)
    return Sample(*(torch.from_numpy(part) for part in (clip.frames, waves, clip.masks.astype(np.float32))))


def _of_words(data: WordData) -> list[Sample]:
    """Scenes of the validation split as clips, each with words that are heard in it."""
    from icf_avs.stamps.open_vocab_sampler import NATURAL, sample_open_vocab_scene
    from icf_avs.stamps.rendering import render_frame
    from icf_avs.stamps.scene_features import MAP_STRIDE, VALIDATION_SEED, OpenVocabFeatures
    from icf_avs.stamps.word_batches import word_batch

    spec, seed = data.config.final_spec, VALIDATION_SEED
    size, seconds = (spec.image_size, spec.image_size), max(1, round(spec.seconds))
    scenes = [sample_open_vocab_scene(data.catalog, "val", index, seed, NATURAL, seconds) for index in range(CLIPS)]
    rendered = [[render_frame(scene, spec.frame_time(t), size) for t in range(spec.frames)] for scene in scenes]
    frames, stamp_maps = (np.stack([[frame[part] for frame in clip] for clip in rendered]) for part in (0, 1))
    half, unseen = slice(MAP_STRIDE // 2, None, MAP_STRIDE), np.zeros((CLIPS, spec.frames, 0, 0, 0), np.uint8)
    scene_set = OpenVocabFeatures(scenes, [], stamp_maps[:, :, half, half], frames, unseen, unseen)  # for masks alone
    batch = word_batch(scene_set, np.arange(CLIPS), data.words, data.sounds, np.random.default_rng(seed), noisy=False)
    return [Sample(torch.from_numpy(frames[i]), batch.sound[i], batch.masks[i], has_tags=True) for i in range(CLIPS)]


def _stored(data: BenchmarkData) -> list[Sample]:
    from icf_avs.avsbench.dataset import ClipDataset
    from icf_avs.avsbench.layouts import read_set

    records = read_set(data.root, "val", data.clips.audio)[:CLIPS]
    clips = ClipDataset(records, data.classes, data.config.final_spec, data.clips.audio)
    found = (clips[index] for index in range(len(clips)))
    return [Sample(clip.frames, clip.waves if clip.log_mel is None else clip.log_mel, clip.masks) for clip in found]


def sample_sheet(model: SegmentationModel, samples: list[Sample]) -> np.ndarray:
    """uint8 [H, W, 3]: of every clip up to five moments, with the truth above and what the model marks below.

    Switches the model to evaluation.
    """
    line = SIDE + GAP
    sheet = np.full((len(samples) * (3 * line + 2 * GAP), COLUMNS * line, 3), 24, np.uint8)
    for row, sample in enumerate(samples):
        logits = _marked(model, sample)
        shown = np.linspace(0, len(sample.frames) - 1, min(COLUMNS, len(sample.frames))).round().astype(int)
        for column, frame in enumerate(shown):
            picture = Image.fromarray(sample.frames[frame].numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            truth = _at(sample.masks[frame] - 0.5)
            for number, mask in enumerate((np.zeros_like(truth), truth, _at(logits[frame]))):
                tile = np.array(picture)
                Overlay(mask).draw_rgb(tile)
                top, left = row * (3 * line + 2 * GAP) + number * line, column * line
                sheet[top : top + SIDE, left : left + SIDE] = tile
    return sheet


@torch.inference_mode()
def _marked(model: SegmentationModel, sample: Sample) -> Tensor:
    """Mask logits [T,h,w] on the CPU."""
    predictor = Predictor(model)
    audio = model.eval().network.encode_audio(sample.sound[None].to(model.device), sample.has_tags)
    valid = torch.ones(audio.token.shape[:2], dtype=torch.bool, device=model.device)
    return predictor.segment(predictor.encode(sample.frames[None]), audio, valid).logits[0].cpu()


def _at(values: Tensor) -> np.ndarray:
    """[h, w] -> bool [SIDE, SIDE], where above 0."""
    return (F.interpolate(values.float()[None, None], (SIDE, SIDE), mode="bilinear")[0, 0] > 0).numpy()
