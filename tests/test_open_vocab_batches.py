"""Open-vocabulary batches: masks show exactly what is asked for, and held-out words never occur."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from icf_avs.synthetic.catalog import load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_batches import Vocabulary, open_vocab_batch, sample_absent_word
from icf_avs.synthetic.open_vocab_sampler import DEFAULT
from icf_avs.synthetic.scene_features import (
    OpenVocabFeatures,
    SceneSet,
    dequantize_probs,
    dequantize_scores,
    open_vocab_features,
)
from icf_avs.synthetic.tagger_cache import TaggerOutputs
from icf_avs.training.composed_data import training_words, vocabulary
from icf_avs.types import ClipSpec

SIZE, FRAMES = 64, 3
SURELY = 9 / 16  # exact in half precision


@pytest.fixture(scope="module")
def catalog(catalog):
    return load_open_vocab_stamps(catalog.root)


@pytest.fixture(scope="module")
def words(catalog) -> Vocabulary:
    return training_words(catalog, "minilm", 0.6)


@pytest.fixture(scope="module")
def features(catalog) -> OpenVocabFeatures:
    spec = ClipSpec(frames=FRAMES, image_size=SIZE)
    return open_vocab_features(catalog, SceneSet("train", 24, 0, DEFAULT, spec), 1)


@pytest.fixture(scope="module")
def sounds(catalog, words) -> TaggerOutputs:
    """Every second class is tagged as its word (9/16), the others as an accordion; mixtures are of neighbours."""
    kinds = tuple(sorted({stamp.class_name for stamp in catalog.training if stamp.class_name}))
    size = len(words.words)
    outputs = np.zeros((len(kinds), 2, size), np.float16)
    for number, kind in enumerate(kinds):
        outputs[number, :, words.word_of_class[kind] if number % 2 else words.index["accordion"]] = SURELY
    pairs = np.array([(number, number + 1) for number in range(len(kinds) - 1)])
    mixed = np.maximum(outputs[pairs[:, 0], 0], outputs[pairs[:, 1], 0])
    nothing = np.zeros((2, size), np.float16)
    return TaggerOutputs(kinds, outputs, np.zeros((len(kinds), 1, size), np.float16), nothing, pairs, mixed)


@pytest.fixture(scope="module")
def batch(features, words, sounds):
    rng = np.random.default_rng(0)
    indices = np.tile(np.arange(24), 8)
    return indices, open_vocab_batch(features, indices, words, sounds, rng, noisy=False)


def test_masks_show_exactly_what_is_asked_for(batch, features, words):
    indices, batch = batch
    assert batch.masks.shape == (192, FRAMES, SIZE // 4, SIZE // 4)
    for row, at in enumerate(indices):
        for frame in range(FRAMES):
            named = [words.words[i] for i in batch.sounding[row, frame].nonzero()[:, 0]]
            truth = np.zeros((SIZE // 2, SIZE // 2), bool)
            for word in named:
                truth |= features.masks(at, word)[frame]
            share = truth.reshape(SIZE // 4, 2, SIZE // 4, 2).mean((1, 3))
            np.testing.assert_allclose(batch.masks[row, frame], share)
            kinds = set(batch.class_map[row, frame].unique().tolist()) - {0}
            assert {words.words[kind - 1] for kind in kinds} <= set(named)


def test_some_queries_are_empty_and_some_name_absent_objects(batch):
    _, batch = batch
    asked, marked = batch.sounding.any((1, 2)), batch.masks.flatten(1).any(1)
    assert 0.02 < (~asked).float().mean() < 0.25
    assert 0.04 < (asked & ~marked).float().mean() < 0.3
    assert not (marked & ~asked).any()
    absent = asked & ~marked
    assert not (batch.sounding[absent].any(1) & batch.onscreen[absent]).any()


def test_onscreen_includes_synonyms(batch, features, words):
    indices, batch = batch
    for row, at in enumerate(indices[:24]):
        vectors = words.names[[words.index[word] for word in features.scenes[at].present_words]]
        expected = (words.names @ vectors.T).amax(1) > 0.6
        assert torch.equal(batch.onscreen[row], expected)


def test_held_out_words_never_occur(batch, catalog, words):
    _, batch = batch
    for word in ("violin", "owl", "penguin", "camel", "fire truck"):
        place = words.index[word]
        assert not words.nameable[place]
        assert not batch.sounding[..., place].any() and not batch.tag_probs[..., place].any()
    assert words.nameable[[words.index[word] for word in catalog.training_words]].all()


def test_correctly_tagged_recordings_alternate_with_words(batch, words, sounds):
    _, batch = batch
    assert batch.tag_probs.min() >= 0 and batch.tag_probs.max() <= 1
    assert (batch.tag_probs.amax(-1)[batch.sounding.any(-1)] > 0).all()
    recorded = (batch.tag_probs == SURELY).any(-1)
    assert 0.02 < recorded.float().mean() < 0.5
    word_of_class = {words.word_of_class[kind] for kind in sounds.class_names[1::2]}
    for row, frame in recorded.nonzero().tolist():
        asked = set(batch.sounding[row, frame].nonzero()[:, 0].tolist())
        # A wrong tag (accordion) occurs only in a mixture with a correctly tagged sound.
        assert any(batch.tag_probs[row, frame, word] == SURELY for word in asked & word_of_class)


def test_other_objects_may_be_heard_faintly(batch, features, words):
    indices, batch = batch
    faint = []
    for row, at in enumerate(indices):
        for frame in range(FRAMES):
            heard, asked = batch.tag_probs[row, frame], batch.sounding[row, frame]
            scene = features.scenes[at]
            meant = {thing for word in asked.nonzero()[:, 0] for thing in scene.objects_named(words.words[word])}
            unasked = [
                words.index[o.words[0]] for o in scene.objects if not meant & set(scene.objects_named(o.words[0]))
            ]
            if meant and unasked:
                faint.append(bool((heard[unasked] > 0).any()))
                assert (heard[unasked] <= 0.4 * heard.max()).all()
    assert 0.05 < np.mean(faint) < 0.4


def subsets(count: int) -> list[tuple[int, ...]]:
    """Non-empty subsets of range(count)."""
    return [some for size in range(1, count + 1) for some in combinations(range(count), size)]


def test_extra_queries_for_the_same_frames(features, words, sounds):
    at = np.arange(24)
    batch = open_vocab_batch(features, at, words, sounds, np.random.default_rng(0), noisy=False, extra_queries=3)
    assert batch.other_sounds.shape == (24, 3, *batch.tag_probs.shape[1:])
    assert batch.other_masks.shape == (24, 3, *batch.masks.shape[1:])
    waves, masks = batch.other_sounds.amax(2), batch.other_masks.flatten(2).amax(2)
    assert (waves - batch.tag_probs.amax(1)[:, None]).abs().amax(2).gt(0).float().mean() > 0.9  # other queries
    differ = (batch.other_masks - batch.masks[:, None]).abs().flatten(2).amax(2) > 0
    single = torch.tensor([len(features.scenes[clip].objects) == 1 for clip in at])
    assert differ.float().mean() > 0.4 and differ[single].float().mean() < 0.95  # a single object is asked for again
    assert 0.5 < (masks > 0).float().mean() < 0.95
    for clip in range(24):  # each mask is a union of whole objects
        numbers = range(1, len(features.scenes[clip].objects) + 1)
        shares = avg_pool2d(torch.stack([torch.tensor(features.object_maps(clip) == n).float() for n in numbers]), 2)
        for frame in range(FRAMES):
            parts = [shares[thing, frame] for thing in range(len(numbers))]
            wholes = [sum(parts[thing] for thing in some) for some in subsets(len(numbers))]
            for asked in batch.other_masks[clip, :, frame]:
                assert any(torch.allclose(asked, whole) for whole in [torch.zeros_like(asked), *wholes])
    alone = open_vocab_batch(features, at, words, sounds, np.random.default_rng(0), noisy=False, extra_queries=0)
    assert alone.other_sounds is None and alone.other_masks is None


def test_half_of_the_absent_words_are_hard_negatives(features, words):
    rng = np.random.default_rng(0)
    ranks = []
    for scene in features.scenes:
        away = words.nameable & ~words.synonyms_of([words.index[word] for word in scene.present_words])
        near = words.similarity[[words.index[each.words[0]] for each in scene.objects]].max(0)
        order = [int(word) for word in np.argsort(-near, kind="stable") if away[word]]
        for _ in range(8):
            ranks.append(order.index(sample_absent_word(scene, away, words, rng)))
    assert 0.4 < np.mean(np.array(ranks) < 12) < 0.65 and max(ranks) > 100


def test_batches_are_deterministic(features, words, sounds):
    one, other, third = (
        open_vocab_batch(features, np.arange(8), words, sounds, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    for name in ("tag_probs", "masks", "class_map", "sounding", "onscreen", "other_sounds", "other_masks"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(one.class_scores, other.class_scores)
    assert not torch.equal(one.tag_probs, third.tag_probs) and not torch.equal(one.class_scores, third.class_scores)


def test_augmentations_apply_to_training_only(features, words, sounds):
    at = np.arange(24)
    calm, rough = (
        open_vocab_batch(features, at, words, sounds, np.random.default_rng(0), noisy=noisy) for noisy in (False, True)
    )
    exact = dequantize_scores(features.class_scores[at])
    raw = [torch.from_numpy(level[at]).float().permute(0, 1, 4, 2, 3) for level in features.pyramid]
    shares = dequantize_probs(features.object_probs[at])
    assert shares.amax(2).max() > 0.5  # some objects are recognized
    assert all(torch.equal(*both) for both in zip(calm.pyramid, raw, strict=True))
    assert calm.class_scores.equal(exact) and calm.object_probs.equal(shares)
    assert torch.equal(calm.tag_probs, rough.tag_probs)
    mirrored, lost, unsegmented = [], [], []
    for clip in range(24):
        away, away_mirrored = (
            (rough.class_scores[clip] - one).abs().mean() for one in (exact[clip], exact[clip].flip(-1))
        )
        mirrored.append(away_mirrored < away)
        turn = (lambda maps: maps.flip(-1)) if mirrored[-1] else (lambda maps: maps)
        assert torch.equal(rough.masks[clip], turn(calm.masks[clip]))
        assert torch.equal(rough.other_masks[clip], turn(calm.other_masks[clip]))
        assert torch.equal(rough.class_map[clip], turn(calm.class_map[clip]))
        for level, whole in zip(rough.pyramid, raw, strict=True):
            gain = (level[clip] * turn(whole[clip])).sum((0, 2, 3)) / whole[clip].square().sum((0, 2, 3))
            assert torch.allclose(level[clip], turn(whole[clip]) * gain[:, None, None], atol=1e-3)
            assert (gain >= 0).all()
            lost.append(float((gain == 0).float().mean()))
        likeness = torch.corrcoef(torch.stack([rough.class_scores[clip].flatten(), turn(exact[clip]).flatten()]))
        assert likeness[0, 1] > 0.8
        unsegmented.append(not rough.object_probs[clip].any())
        assert unsegmented[-1] or torch.equal(rough.object_probs[clip], turn(shares[clip]))
    assert 0 < sum(unsegmented) < 12
    assert 4 < sum(mirrored) < 20 and 0.3 < np.mean(lost) < 0.4
    assert (rough.class_scores - exact).abs().mean() > 0.1


def test_the_vocabulary_holds_tags_and_object_words(catalog, words):
    every = vocabulary(catalog)
    assert every == words.words and len(set(every)) == len(every)
    assert {"dog", "violin", "tabla drum", "penguin", "animal"} <= set(every)
    other = replace(words, synonym_threshold=0.99)
    assert other.synonyms_of([words.index["dog"]]).sum() == 1 < words.synonyms_of([words.index["dog"]]).sum()
