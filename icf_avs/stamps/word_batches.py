"""Training batches from word scenes: cached pictures and class evidence, words in place of sounds.

A scene is asked for one to three of its things, for a word that it does not show, or for nothing; and then for some
more of these, since of a composed scene it is known what would be marked had something else sounded, and its pixels
are decoded once whatever is asked. A thing is heard as a tagger would hear it: as its word or one that may mean the
same, less surely as words that are near, at times as a word that has nothing to do with it, and faintly as another
thing of the picture; or, where its kind has a recording, as what the tagger says of that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from icf_avs.contracts import Batch
from icf_avs.stamps.batches import targets
from icf_avs.stamps.scene import Scene
from icf_avs.stamps.scene_features import OpenVocabFeatures
from icf_avs.stamps.tagger_cache import HeardSounds

NEAR = 0.5  # cosine from which a tagger may take one word for another
_MORE = 4  # questions beside the first
_ABSENT, _SILENT = 0.14, 0.10  # shares of the scenes that are asked for what they do not show, for nothing
_ALMOST = 0.5  # that an absent word is one of those nearest to the words of what is shown
_NEAREST = 12  # of these words
_TARGETS = (0.6, 0.3, 0.1)  # of 1, 2, 3 things
_GENERIC = 0.2  # that a thing is asked for by a word that names others too
_SYNONYM = 0.35  # that it is heard as a word that may mean the same
_RECORDED = 0.5  # that a kind with a recording is heard by it
_MIXED = 0.25  # of these: with another recording in the mixture, which is not in the picture
_STRAY = 0.35  # that some word is heard beside what sounds
_FAINT = 0.3  # that another thing of the picture is heard far less surely than what sounds, and is not meant
_UNSEGMENTED = 0.15  # share of the clips for which the segmenter of things is taken to be missing
_LOST, _UNEVEN = 0.35, 0.35  # share of the channels that a clip is seen without; how uneven the others are (log)


@dataclass(frozen=True)
class Words:
    """The vocabulary [C] and its text embeddings [C,E], unit vectors; nameable [C]: words that training may say;
    of_kind: the word of each kind of sound; akin: cosine from which two words may mean the same.
    """

    words: tuple[str, ...]
    names: Tensor
    nameable: np.ndarray
    of_kind: dict[str, int]
    akin: float

    @cached_property
    def likeness(self) -> np.ndarray:
        """[C,C] cosines."""
        return (self.names @ self.names.T).numpy()

    @cached_property
    def index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words)}

    def kin(self, some: list[int]) -> np.ndarray:
        """[C] bool: words that may mean one of `some`."""
        return (self.likeness[some] > self.akin).any(0)


def word_batch(
    features: OpenVocabFeatures, indices: np.ndarray, words: Words, sounds: HeardSounds, rng: np.random.Generator,
    noisy: bool = True, more: int = _MORE,
) -> Batch:  # fmt: skip
    """The scenes of `indices`, each with the tags of its sounds. noisy: evidence is disturbed, channels are lost, at
    times there is no segmenter, and half of the pictures are mirrored; else the pictures come along, at half their
    size. more: sounds of each scene beside the first.
    """
    frames = features.stamp_maps.shape[1]
    tags, sounding, onscreen, maps = [], [], [], []
    for at in indices:
        scene = features.scenes[at]
        shown = words.kin([words.index[word] for word in scene.present_words])
        onscreen.append(shown)
        for _ in range(1 + more):
            heard, asked = _sound(scene, shown, frames, words, sounds, rng)
            tags.append(heard)
            sounding.append(np.zeros((frames, len(words.words)), bool))
            kinds = np.zeros((frames, len(scene.objects) + 1), np.int64)
            for word, when in asked:
                sounding[-1][when, word] = True
                for thing in scene.objects_named(words.words[word]):
                    kinds[when, thing] = word + 1
            maps.append(np.stack([row[objects] for row, objects in zip(kinds, features.object_maps(at), strict=True)]))
    masks, kinds_map = targets(torch.from_numpy(np.stack(maps)))
    every = torch.ones(len(indices), frames, dtype=torch.bool)
    levels, scores, shares = features.visual(indices)
    if noisy:
        levels = [_thinned(level, rng) for level in levels]
        turned = torch.from_numpy(rng.random(len(indices)) < 0.5)
        *levels, scores, shares = (_mirrored(level, turned) for level in (*levels, scores, shares))
        masks, kinds_map = (_mirrored(maps, turned.repeat_interleave(1 + more)) for maps in (masks, kinds_map))
        scores = _disturbed(scores, rng)
        shares = shares * torch.from_numpy(rng.random((len(indices), 1, 1, 1, 1)) >= _UNSEGMENTED)
    heard, sounding = torch.from_numpy(np.stack(tags)), torch.from_numpy(np.stack(sounding))
    heard, sounding, masks, kinds_map = (  # B 1+Q ...
        answers.unflatten(0, (len(indices), 1 + more)) for answers in (heard, sounding, masks, kinds_map)
    )
    return Batch(
        levels,
        heard.new_zeros(len(indices), frames, 0),  # tags stand for the sounds
        masks[:, 0],
        kinds_map[:, 0],
        every,
        every,
        sounding[:, 0],
        torch.from_numpy(np.stack(onscreen)),
        other_sounds=heard[:, 1:] if more else None,
        other_masks=masks[:, 1:] if more else None,
        frames=None if noisy else torch.from_numpy(features.images[indices]),
        class_scores=scores,
        object_probs=shares,
        tag_probs=heard[:, 0],
    )


def _sound(
    scene: Scene, shown: np.ndarray, frames: int, words: Words, sounds: HeardSounds, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """What is heard of a scene [T,C], and the words asked for, each with the frames [T] bool in which it sounds.

    shown [C]: words that may mean something in the picture.
    """
    size = len(words.words)
    away = words.nameable & ~shown
    heard = np.stack([_quiet(size, sounds, rng)] * frames)
    draw = rng.random()
    if draw < _SILENT:
        return heard, []
    if draw < _SILENT + _ABSENT:
        word = _absent(scene, away, words, rng)
        heard[:] = _said(word, away, words, rng)
        return heard, [(word, np.ones(frames, bool))]
    count = min(1 + int(rng.choice(3, p=_TARGETS)), len(scene.objects))
    asked: list[tuple[int, np.ndarray]] = []
    taken = np.zeros(frames, bool)  # frames in which something sounds already
    for thing in rng.permutation(len(scene.objects))[:count]:
        row, names = _thing(scene, int(thing), away, words, sounds, rng)
        others = [index for index in range(len(scene.objects)) if index != thing]
        if others and rng.random() < _FAINT:
            other = words.index[scene.objects[rng.choice(others)].words[0]]
            row[other] = max(row[other], row.max() * rng.uniform(0.03, 0.25))
        when = _span(frames, rng)
        heard[when & ~taken] = row
        row = row * np.float32(rng.uniform(0.4, 1.0))  # another is less sure
        both = when & taken
        heard[both] = np.maximum(heard[both], row)
        taken |= when
        asked += [(name, when) for name in names]
    return heard, asked


def _absent(scene: Scene, away: np.ndarray, words: Words, rng: np.random.Generator) -> int:
    """A word for nothing in the picture; half of them are almost the word of something."""
    choices = np.flatnonzero(away)
    if rng.random() < _ALMOST:
        nearness = words.likeness[[words.index[each.words[0]] for each in scene.objects]].max(0)
        choices = choices[np.argsort(-nearness[choices], kind="stable")[:_NEAREST]]
    return int(rng.choice(choices))


def _thing(
    scene: Scene, thing: int, away: np.ndarray, words: Words, sounds: HeardSounds, rng: np.random.Generator
) -> tuple[np.ndarray, list[int]]:
    """What is heard of one thing [C], and the words that are meant by it."""
    word, kind = words.index[scene.objects[thing].words[0]], scene.objects[thing].class_name
    if kind in sounds.kinds and rng.random() < _RECORDED:
        at = sounds.kinds.index(kind)
        with_it = np.flatnonzero((sounds.pairs == at).any(1))
        if rng.random() < _MIXED and len(with_it):
            pair = int(rng.choice(with_it))
            other = words.of_kind[sounds.kinds[int(sounds.pairs[pair].sum()) - at]]
            row = sounds.mixed[pair].astype(np.float32)
            if away[other] and _right(row, word, words):
                return row, [word, *([other] if _right(row, other, words) else [])]
        row = sounds.outputs[at, rng.integers(sounds.outputs.shape[1])].astype(np.float32)
        if _right(row, word, words):
            return row, [word]
    generic = scene.objects[thing].generic
    if generic and rng.random() < _GENERIC:
        word = words.index[generic[rng.integers(len(generic))]]
        return _said(word, away, words, rng, synonyms=False), [word]  # a dog that is heard is no animal at large
    return _said(word, away, words, rng), [word]


def _right(row: np.ndarray, word: int, words: Words) -> bool:
    """Whether a thing is heard as what it is, among other things: from what is misheard only mistakes can be learnt."""
    return row[words.kin([word])].max() > max(0.05, 0.4 * row.max())


def _said(word: int, away: np.ndarray, words: Words, rng: np.random.Generator, synonyms: bool = True) -> np.ndarray:
    """A word as a tagger might hear it [C]: surely or not, with words that are near."""
    row = np.zeros(len(words.words), np.float32)
    near = words.likeness[word]
    strength = rng.uniform(0.2, 1.0)
    row[word] = strength
    # What is near, but means something else in the picture, would be asked for as well.
    alike = np.flatnonzero((near > words.akin) & words.nameable & (np.arange(len(near)) != word))
    if synonyms and len(alike) and rng.random() < _SYNONYM:
        row[rng.choice(alike)] = strength
        row[word] *= rng.choice((0.0, rng.random()))
    others = np.flatnonzero((near > NEAR) & (near <= words.akin) & away)
    for other in rng.permutation(others)[: rng.integers(3)]:
        row[other] = max(row[other], strength * rng.uniform(0.05, 0.7))
    if rng.random() < _STRAY:
        row[rng.choice(np.flatnonzero(away))] = strength * rng.uniform(0.05, 0.4)
    return row


def _quiet(size: int, sounds: HeardSounds, rng: np.random.Generator) -> np.ndarray:
    """What is heard where nothing of the picture sounds [C]: nothing, noise, or a sound that has just ended."""
    draw = rng.random()
    if draw < 0.3:
        return np.zeros(size, np.float32)
    some = sounds.noise if draw < 0.7 else sounds.silent.reshape(-1, sounds.silent.shape[-1])
    return some[rng.integers(len(some))].astype(np.float32)


def _span(frames: int, rng: np.random.Generator) -> np.ndarray:
    """[T] bool, at least one True in a row: a clip's sound begins and ends, that of a picture is there."""
    if frames == 1 or rng.random() < 0.4:
        return np.ones(frames, bool)
    first = int(rng.integers(frames))
    on = np.zeros(frames, bool)
    on[first : int(rng.integers(first + 1, frames + 1))] = True
    return on


def _thinned(level: Tensor, rng: np.random.Generator) -> Tensor:
    """A level [B,T,c,h,w] with channels louder, fainter or lost, the same ones throughout a clip: no few of them can be
    relied on to tell the pictures of training apart, which would close the decoder to all others.
    """
    shape = (level.shape[0], 1, level.shape[2], 1, 1)
    gain = np.exp(rng.normal(0, _UNEVEN, shape)) * (rng.random(shape) >= _LOST) / (1 - _LOST)
    return level * torch.from_numpy(gain.astype(np.float32))


def _mirrored(maps: Tensor, turned: Tensor) -> Tensor:
    """maps [B,...,w], those of the clips `turned` [B] with left and right changed."""
    return torch.where(turned.view(-1, *[1] * (maps.dim() - 1)), maps.flip(-1), maps)


def _disturbed(scores: Tensor, rng: np.random.Generator) -> Tensor:
    """z-scores [B,T,K,h,w] as other pictures might give them: louder or fainter, and noisy."""
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.2, len(scores))).astype(np.float32))
    noise = torch.from_numpy(rng.normal(0, 0.4, (len(scores), 1, scores.shape[2], 1, 1)).astype(np.float32))
    return (scores + noise) * gain[:, None, None, None, None]
