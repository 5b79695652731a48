"""Training batches from open-vocabulary scenes: cached features, and simulated tagger predictions in place of sound.

A scene is queried for one to three of its objects, for an absent word, or for nothing. Further such queries follow,
since the ground truth of a composed scene is known for every query, and its pixels are decoded once for all of them.
The prediction for an object is its word or a synonym, with lower scores for similar words, sometimes for an unrelated
word, and for another object of the image. If its class has a recording, it may be the tagger's real prediction for
that recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from icf_avs.synthetic.batches import mask_and_class_targets
from icf_avs.synthetic.scene import Scene
from icf_avs.synthetic.scene_features import OpenVocabFeatures
from icf_avs.synthetic.tagger_cache import TaggerOutputs
from icf_avs.types import Batch

NEAR = 0.5  # cosine above which a tagger may confuse two words
_ABSENT_PROB, _SILENT_PROB = 0.14, 0.10  # shares of queries for an absent word, for nothing
_SIMILAR_ABSENT_PROB, _NUM_SIMILAR = 0.5, 12  # that an absent word is near to the words shown; nearest words
_TARGETS = (0.6, 0.3, 0.1)  # of 1, 2, 3 objects
_GENERIC_PROB = 0.2  # that an object is queried by a generic word
_SYNONYM_PROB = 0.35  # that a synonym is predicted
_RECORDED_PROB = 0.5  # that a class with a recording gets the tagger's prediction for it
_MIXED_PROB = 0.25  # share of these: mixed with the recording of a class that is not in the image
_STRAY_PROB = 0.35  # that an unrelated word is predicted, too
_FAINT_PROB = 0.3  # that another object of the image, not queried, gets a low score
_NO_SEGMENTER_PROB = 0.15  # share of the clips without the output of the segmenter
_DROP_PROB, _GAIN_STD = 0.35, 0.35  # share of dropped channels; standard deviation of the log gain of the others


@dataclass(frozen=True)
class Vocabulary:
    """Words [C] and their text embeddings [C,E], unit vectors. nameable [C]: words that training may use.
    word_of_class: the word of each class. synonym_threshold: cosine above which two words may mean the same.
    """

    words: tuple[str, ...]
    names: Tensor
    nameable: np.ndarray
    word_of_class: dict[str, int]
    synonym_threshold: float

    @cached_property
    def similarity(self) -> np.ndarray:
        """[C,C] cosines."""
        return (self.names @ self.names.T).numpy()

    @cached_property
    def index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def synonyms_of(self, some: list[int]) -> np.ndarray:
        """[C] bool: words that may mean the same as one of `some`."""
        return (self.similarity[some] > self.synonym_threshold).any(0)


def open_vocab_batch(
    features: OpenVocabFeatures, indices: np.ndarray, words: Vocabulary, sounds: TaggerOutputs,
    rng: np.random.Generator, noisy: bool = True, extra_queries: int = 4,
) -> Batch:  # fmt: skip
    """Build a batch of the scenes `indices`, each with tagger predictions for its frames. noisy: scores are jittered,
    channels dropped, the segmenter sometimes omitted, and half of the scenes flipped; else the batch has the images, at
    half their size. extra_queries: queries per scene in addition to the first.
    """
    frames, clips, queries = features.stamp_maps.shape[1], len(indices), 1 + extra_queries
    tags, sounding, onscreen, maps = [], [], [], []
    for at in indices:
        objects, sampler = features.object_maps(at), _QuerySampler(features.scenes[at], words, sounds, rng)
        onscreen.append(sampler.shown)
        for _ in range(queries):
            predictions, words_on, class_of_object = sampler.draw(frames)
            tags.append(predictions)
            sounding.append(words_on)
            maps.append(class_of_object[np.arange(frames)[:, None, None], objects])
    masks, class_map = mask_and_class_targets(torch.from_numpy(np.stack(maps)))
    levels, scores, probs = features.visual(indices)
    if noisy:
        levels = [_channel_dropout(level, rng) for level in levels]
        flipped = torch.from_numpy(rng.random(clips) < 0.5)
        *levels, scores, probs = (_flip(level, flipped) for level in (*levels, scores, probs))
        masks, class_map = (_flip(maps, flipped.repeat_interleave(queries)) for maps in (masks, class_map))
        scores = _jitter_scores(scores, rng)
        probs = probs * torch.from_numpy(rng.random((clips, 1, 1, 1, 1)) >= _NO_SEGMENTER_PROB)
    answers = torch.from_numpy(np.stack(tags)), torch.from_numpy(np.stack(sounding)), masks, class_map
    tags, sounding, masks, class_map = (each.unflatten(0, (clips, queries)) for each in answers)  # B 1+Q ...
    every = torch.ones(clips, frames, dtype=torch.bool)
    return Batch(
        levels, tags.new_zeros(clips, frames, 0),  # empty: tags stand for the sounds
        masks[:, 0], class_map[:, 0], every, every, sounding[:, 0], torch.from_numpy(np.stack(onscreen)),
        other_sounds=tags[:, 1:] if extra_queries else None,
        other_masks=masks[:, 1:] if extra_queries else None,
        frames=None if noisy else torch.from_numpy(features.images[indices]),
        class_scores=scores, object_probs=probs, tag_probs=tags[:, 0],
    )  # fmt: skip


class _QuerySampler:
    """Draws queries for a scene. shown [C]: words that may mean something in the image; predictions are rows [C]."""

    def __init__(self, scene: Scene, words: Vocabulary, sounds: TaggerOutputs, rng: np.random.Generator) -> None:
        self.scene, self.words, self.sounds, self.rng = scene, words, sounds, rng
        self.usual_words = [words.index[each.words[0]] for each in scene.objects]
        self.shown = words.synonyms_of([words.index[word] for word in scene.present_words])
        self.absent = words.nameable & ~self.shown

    def draw(self, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return predictions [T,C], which words are queried in each frame, bool [T,C], and what then sounds: the class
        of each object [T, objects + 1], 0 for silent ones and for the background, which is the first.
        """
        rng, objects = self.rng, range(len(self.usual_words))
        tags, sounding = np.stack([self._background()] * frames), np.zeros((frames, len(self.absent)), bool)
        classes = np.zeros((frames, len(objects) + 1), np.int64)
        draw = rng.random()
        if draw < _SILENT_PROB:
            return tags, sounding, classes
        if draw < _SILENT_PROB + _ABSENT_PROB:
            word = self._absent_word()
            tags[:], sounding[:, word] = self._simulated(word), True
            return tags, sounding, classes
        count = min(1 + int(rng.choice(3, p=_TARGETS)), len(objects))
        taken = np.zeros(frames, bool)  # frames in which an object sounds already
        for item in rng.permutation(len(objects))[:count]:
            row, names = self._prediction(item)
            others = [index for index in objects if index != item]
            if others and rng.random() < _FAINT_PROB:
                other = self.usual_words[rng.choice(others)]
                row[other] = max(row[other], row.max() * rng.uniform(0.03, 0.25))
            when = _active_frames(frames, rng)
            tags[when & ~taken] = row
            row = row * np.float32(rng.uniform(0.4, 1.0))  # a further object in the same frame has lower scores
            both = when & taken
            tags[both] = np.maximum(tags[both], row)
            taken |= when
            for name in names:
                sounding[when, name] = True
                for number in self.scene.objects_named(self.words.words[name]):
                    classes[when, number] = name + 1
        return tags, sounding, classes

    def _background(self) -> np.ndarray:
        """Draw a prediction for frames in which nothing of the image sounds: zeros, noise, or an adjacent sound."""
        draw, silent = self.rng.random(), self.sounds.silent
        if draw < 0.3:
            return np.zeros(len(self.words.words), np.float32)
        some = self.sounds.noise if draw < 0.7 else silent.reshape(-1, silent.shape[-1])
        return some[self.rng.integers(len(some))].astype(np.float32)

    def _absent_word(self) -> int:
        """Draw a word for nothing in the image; half of the time it is similar to the word of an object."""
        choices = np.flatnonzero(self.absent)
        if self.rng.random() < _SIMILAR_ABSENT_PROB:
            nearness = self.words.similarity[self.usual_words].max(0)
            choices = choices[np.argsort(-nearness[choices], kind="stable")[:_NUM_SIMILAR]]
        return int(self.rng.choice(choices))

    def _prediction(self, item: int) -> tuple[np.ndarray, list[int]]:
        """Return a prediction for one object, and the words that it queries."""
        rng, words, sounds = self.rng, self.words, self.sounds
        word, shown = self.usual_words[item], self.scene.objects[item]
        if shown.class_name in sounds.class_names and rng.random() < _RECORDED_PROB:
            at = sounds.class_names.index(shown.class_name)
            with_it = np.flatnonzero((sounds.pairs == at).any(1))
            if rng.random() < _MIXED_PROB and len(with_it):
                pair = int(rng.choice(with_it))
                other = words.word_of_class[sounds.class_names[int(sounds.pairs[pair].sum()) - at]]
                row = sounds.mixed[pair].astype(np.float32)
                if self.absent[other] and self._is_recognised(row, word):
                    return row, [word, *([other] if self._is_recognised(row, other) else [])]
            row = sounds.outputs[at, rng.integers(sounds.outputs.shape[1])].astype(np.float32)
            if self._is_recognised(row, word):
                return row, [word]
        if shown.generic and rng.random() < _GENERIC_PROB:
            word = words.index[shown.generic[rng.integers(len(shown.generic))]]
            return self._simulated(word, synonyms=False), [word]  # "dog" is not predicted for "animal"
        return self._simulated(word), [word]

    def _is_recognised(self, row: np.ndarray, word: int) -> bool:
        """Return True if a prediction contains the right word; training on wrong ones would only teach mistakes."""
        return row[self.words.synonyms_of([word])].max() > max(0.05, 0.4 * row.max())

    def _simulated(self, word: int, synonyms: bool = True) -> np.ndarray:
        """Simulate a prediction for a word: with a high or a low score, and with similar words."""
        rng, words, row = self.rng, self.words, np.zeros(len(self.words.words), np.float32)
        near = words.similarity[word]
        row[word] = strength = rng.uniform(0.2, 1.0)
        # A similar word of another object in the image would query that, too: `others` are absent words.
        alike = np.flatnonzero((near > words.synonym_threshold) & words.nameable & (np.arange(len(near)) != word))
        if synonyms and len(alike) and rng.random() < _SYNONYM_PROB:
            row[rng.choice(alike)] = strength
            row[word] *= rng.choice((0.0, rng.random()))
        others = np.flatnonzero((near > NEAR) & (near <= words.synonym_threshold) & self.absent)
        for other in rng.permutation(others)[: rng.integers(3)]:
            row[other] = max(row[other], strength * rng.uniform(0.05, 0.7))
        if rng.random() < _STRAY_PROB:
            row[rng.choice(np.flatnonzero(self.absent))] = strength * rng.uniform(0.05, 0.4)
        return row


def _active_frames(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one run of active frames, [T] bool: sound starts and ends within a clip; a single frame always sounds."""
    if frames == 1 or rng.random() < 0.4:
        return np.ones(frames, bool)
    first, frame = rng.integers(frames), np.arange(frames)
    return (frame >= first) & (frame < rng.integers(first + 1, frames + 1))


def _channel_dropout(level: Tensor, rng: np.random.Generator) -> Tensor:
    """Scale or drop channels of a level [B,T,c,h,w], the same ones throughout a clip, so that the decoder does not rely
    on the few channels that distinguish the training images.
    """
    shape = (level.shape[0], 1, level.shape[2], 1, 1)
    gain = np.exp(rng.normal(0, _GAIN_STD, shape)) * (rng.random(shape) >= _DROP_PROB) / (1 - _DROP_PROB)
    return level * torch.from_numpy(gain.astype(np.float32))


def _flip(maps: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the maps [B,...,w] of the clips `flipped` [B]."""
    return torch.where(flipped.view(-1, *[1] * (maps.dim() - 1)), maps.flip(-1), maps)


def _jitter_scores(scores: Tensor, rng: np.random.Generator) -> Tensor:
    """Scale z-scores [B,T,K,h,w] and add noise, to simulate other images."""
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.2, len(scores))).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, 0.4, (len(scores), 1, scores.shape[2], 1, 1)).astype(np.float32))
    return (scores + noise) * gain[:, None, None, None, None]
