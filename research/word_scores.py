"""Scores of an open-vocabulary model on composed scenes, with tagger outputs of real recordings.

Every scene shows at least two objects. In `true`, one that has a recording sounds; in `word`, its tag is given without
audio. The others are silence, noise, a recording of a class not in the image, and a tag that matches nothing in it. All
are strict scores over images, against the mask of the sounding object, as in icf_avs/evaluation/evaluate.py. For the
last four lower is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.evaluation.metrics import StrictMetric
from icf_avs.inference.predictor import Predictor
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.synthetic.open_vocab_batches import Vocabulary
from icf_avs.synthetic.scene_features import OpenVocabFeatures
from icf_avs.synthetic.tagger_cache import TaggerOutputs

AUDIOS = ("true", "word", "silence", "noise", "offscreen", "absent-word")
_AT_ONCE = 8  # scenes


@dataclass(frozen=True)
class _Question:
    """Index of a scene, indices of the objects that sound in it, and tagger outputs [6 audios, C]."""

    scene: int
    things: tuple[int, ...]
    heard: np.ndarray


def word_scores(
    model: SegmentationModel, features: OpenVocabFeatures, words: Vocabulary, sounds: TaggerOutputs, silence: Tensor,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Return {audio: {"miou", "f", "fpr", "scenes"}}. silence [C]: tagger output for zeros.

    Uses the single-frame scenes with at least two objects, one of which is of a class in `sounds`. fpr is the segmented
    share of the image.
    """
    questions = _questions(features, words, sounds, silence.numpy(), seed)
    metrics = {audio: StrictMetric(sync_on_compute=False) for audio in AUDIOS}
    for start in range(0, len(questions), _AT_ONCE):
        some = questions[start : start + _AT_ONCE]
        numbers = np.array([question.scene for question in some])
        truth = [np.isin(features.object_maps(question.scene)[0], question.things) for question in some]
        for audio, probabilities in zip(AUDIOS, _answers(model, features, numbers, some), strict=True):
            metrics[audio].update(probabilities, torch.from_numpy(np.stack(truth)))
        progress(min(start + _AT_ONCE, len(questions)), len(questions))
    found = {audio: metric.compute() for audio, metric in metrics.items()}
    return {
        audio: {"miou": values["miou"], "f": values["f"], "fpr": values["active"], "scenes": len(questions)}
        for audio, values in found.items()
    }


@torch.inference_mode()
def _answers(
    model: SegmentationModel, features: OpenVocabFeatures, numbers: np.ndarray, some: list[_Question]
) -> list[Tensor]:
    """Return probabilities [n,S/2,S/2] under each of the sounds, on the CPU."""
    device = model.device
    predictor, visual = Predictor(model), features.visual(numbers).map(lambda x: x.to(device))
    scales = predictor.encode(torch.from_numpy(features.images[numbers]), visual)
    valid = torch.ones(len(some), 1, dtype=torch.bool, device=device)
    answers = []
    for sound in torch.from_numpy(np.stack([question.heard for question in some])).to(device).unbind(1):
        audio = model.network.encode_audio(sound[:, None], tags=True)
        logits = predictor.segment(scales, audio, valid).logits[:, 0].cpu()
        answers.append(F.interpolate(logits[None], features.stamp_maps.shape[2:], mode="bilinear")[0].sigmoid())
    return answers


def _questions(
    features: OpenVocabFeatures, words: Vocabulary, sounds: TaggerOutputs, silence: np.ndarray, seed: int
) -> list[_Question]:
    rng = np.random.default_rng(seed)
    found = []
    of_kinds = np.array([words.word_of_class[kind] for kind in sounds.class_names])
    for number, scene in enumerate(features.scenes):
        mine = [thing for thing, each in enumerate(scene.objects) if each.class_name in sounds.class_names]
        if len(scene.objects) < 2 or not mine:
            continue
        thing = mine[rng.integers(len(mine))]
        shown = words.synonyms_of([words.index[word] for word in scene.present_words])
        absent = np.flatnonzero(~shown[of_kinds])
        at = sounds.class_names.index(scene.objects[thing].class_name)
        said, absent_word = np.zeros((2, len(words.words)), np.float32)
        said[words.index[scene.objects[thing].words[0]]] = 1
        absent_word[rng.choice(np.flatnonzero(~shown))] = 1
        variant = rng.integers(sounds.outputs.shape[1])
        heard = (
            sounds.outputs[at, variant],
            said,
            silence,
            sounds.noise[variant],
            sounds.outputs[rng.choice(absent), variant],
            absent_word,
        )
        question = np.stack([row.astype(np.float32) for row in heard])
        found.append(_Question(number, scene.objects_named(scene.objects[thing].words[0]), question))
    return found
