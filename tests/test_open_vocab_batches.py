"""Open-vocabulary batches: masks show exactly what is asked for, and held-out words never occur."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from icf_avs.synthetic.catalog import load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_batches import Vocabulary, open_vocab_batch
from icf_avs.synthetic.open_vocab_sampler import DEFAULT
from icf_avs.synthetic.scene_features import OpenVocabFeatures, SceneSet, open_vocab_features
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
    outputs = np.zeros((len(kinds), 2, len(words.words)), np.float16)
    for number, kind in enumerate(kinds):
        outputs[number, :, words.word_of_class[kind] if number % 2 else words.index["accordion"]] = SURELY
    pairs = np.stack([np.arange(len(kinds) - 1), np.arange(1, len(kinds))], 1)
    mixed, nothing = outputs[pairs, 0].max(1), np.zeros_like(outputs)
    return TaggerOutputs(kinds, outputs, nothing, nothing[0], pairs, mixed)


@pytest.fixture(scope="module")
def batch(features, words, sounds):
    indices = np.tile(np.arange(24), 8)
    return indices, open_vocab_batch(features, indices, words, sounds, np.random.default_rng(0), noisy=False)


def test_masks_show_exactly_what_is_asked_for(batch, features, words):
    indices, batch = batch
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
    absent = asked & ~marked
    assert 0.02 < (~asked).float().mean() < 0.25 and 0.04 < absent.float().mean() < 0.3
    assert not (marked & ~asked).any()
    assert not (batch.sounding[absent].any(1) & batch.onscreen[absent]).any()


def test_the_vocabulary_holds_tags_and_object_words_and_held_out_ones_never_occur(batch, catalog, words):
    _, batch = batch
    every = vocabulary(catalog)
    assert every == words.words and len(set(every)) == len(every) and {"tabla drum", "animal"} <= set(every)
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


def test_augmentations_apply_to_training_only(features, words, sounds):
    at = np.arange(24)
    calm, rough = (
        open_vocab_batch(features, at, words, sounds, np.random.default_rng(0), noisy=noisy) for noisy in (False, True)
    )
    raw, exact, shares = features.visual(at)
    assert calm.class_scores.equal(exact) and calm.object_probs.equal(shares) and shares.amax(2).max() > 0.5
    assert torch.equal(calm.tag_probs, rough.tag_probs) and all(map(torch.equal, calm.pyramid, raw))
    mirrored, lost, unsegmented = [], [], []
    for clip in at:
        away = [(rough.class_scores[clip] - one).abs().mean() for one in (exact[clip], exact[clip].flip(-1))]
        mirrored.append(away[1] < away[0])
        turn = (lambda maps: maps.flip(-1)) if mirrored[-1] else (lambda maps: maps)
        for name in ("masks", "other_masks", "class_map"):
            assert torch.equal(getattr(rough, name)[clip], turn(getattr(calm, name)[clip]))
        for level, whole in zip(rough.pyramid, raw, strict=True):
            gain = (level[clip] * turn(whole[clip])).sum((0, 2, 3)) / whole[clip].square().sum((0, 2, 3))
            assert torch.allclose(level[clip], turn(whole[clip]) * gain[:, None, None], atol=1e-3)
            lost.append(float((gain == 0).float().mean()))
        unsegmented.append(not rough.object_probs[clip].any())
        assert unsegmented[-1] or torch.equal(rough.object_probs[clip], turn(shares[clip]))
    assert 0 < sum(unsegmented) < 12 and 4 < sum(mirrored) < 20 and 0.3 < np.mean(lost) < 0.4
    assert (rough.class_scores - exact).abs().mean() > 0.1
