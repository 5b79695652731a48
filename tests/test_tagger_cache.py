"""Cached tagger predictions for every sounding class: included classes, values, and caching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tagger_weights import published_weights

from icf_avs.encoders.efficientat import load_efficientat
from icf_avs.encoders.tagger_encoder import WordTagger, audio_words
from icf_avs.synthetic import tagger_cache as module
from icf_avs.synthetic.catalog import HELD_OUT, Catalog, load_catalog, load_open_vocab_stamps
from icf_avs.synthetic.tagger_cache import TaggerOutputs, tagger_outputs

VARIANTS = 4
ARRAYS = ("outputs", "silent", "noise", "pairs", "mixed")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Six classes, three of them held out."""
    whole = load_catalog()
    wanted = ("dog", "horse", "rooster", "duck", "violin", "rubber-duck")
    return replace(whole, classes=tuple(kind for kind in whole.classes if kind.name in wanted))


@pytest.fixture(scope="module")
def tagger() -> WordTagger:
    return WordTagger(load_efficientat(published_weights()), audio_words())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train_outputs(catalog: Catalog, tagger: WordTagger, cache: Path, monkeypatch: pytest.MonkeyPatch) -> TaggerOutputs:
    """Predictions in a separate cache folder."""
    monkeypatch.setattr(module, "cache_dir", lambda: cache)
    return tagger_outputs(catalog, "train", tagger, VARIANTS, load_open_vocab_stamps(catalog.root).training_classes)


def test_training_has_no_held_out_classes(catalog: Catalog, tagger: WordTagger, train_outputs: TaggerOutputs) -> None:
    assert train_outputs.class_names == ("dog", "horse", "rooster")
    other = tagger_outputs(catalog, "train", tagger, VARIANTS, only=HELD_OUT)
    assert set(other.class_names) == {"duck", "violin", "rubber-duck"}
    known = load_open_vocab_stamps(catalog.root, held_out=()).training_classes
    trained = set(train_outputs.class_names)
    assert known >= set(HELD_OUT) | trained and not trained & set(HELD_OUT)


def test_shapes_and_scales(train_outputs: TaggerOutputs, tagger: WordTagger) -> None:
    shapes = [getattr(train_outputs, name).shape for name in ARRAYS]
    quarter = VARIANTS // 4
    assert shapes == [(3, VARIANTS, tagger.dim), (3, quarter, tagger.dim), (VARIANTS, tagger.dim), (3 * quarter, 2),
                      (3 * quarter, tagger.dim)]  # fmt: skip
    assert (train_outputs.pairs[:, 0] != train_outputs.pairs[:, 1]).all()
    assert train_outputs.outputs.dtype == train_outputs.mixed.dtype == np.float16
    assert train_outputs.outputs.min() >= 0 and train_outputs.outputs.max() <= 1
    for variants in train_outputs.outputs.astype(float):
        assert len(np.unique(variants.round(2), axis=0)) > VARIANTS // 2


def test_a_class_is_tagged_as_its_word_while_it_sounds(train_outputs: TaggerOutputs) -> None:
    dog, place = train_outputs.class_names.index("dog"), audio_words().index("dog")
    outputs, silent = train_outputs.outputs.astype(float), train_outputs.silent.astype(float)
    assert audio_words()[int(outputs[dog].mean(0).argmax())] == "dog" and outputs[dog, :, place].mean() > 0.2
    assert outputs[train_outputs.class_names.index("rooster"), :, place].mean() < 0.1
    assert silent[dog, :, place].mean() < 0.2 and train_outputs.noise[:, place].max() < 0.1


def test_predictions_are_cached_until_an_input_changes(
    catalog: Catalog, tagger: WordTagger, train_outputs: TaggerOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(module, "noise", fail)
    again = tagger_outputs(catalog, "train", tagger, VARIANTS, only=train_outputs.class_names)
    assert again.class_names == train_outputs.class_names
    assert all(np.array_equal(getattr(again, name), getattr(train_outputs, name)) for name in ARRAYS)
    reordered = WordTagger(tagger.network, (*audio_words()[1:], audio_words()[0]))
    for arguments in ((catalog, "cross", tagger, 4), (catalog, "train", tagger, 5), (catalog, "train", reordered, 4)):
        with pytest.raises(AssertionError, match="made again"):
            tagger_outputs(*arguments)


def test_predictions_are_deterministic(catalog: Catalog, tagger: WordTagger, tmp_path: Path, monkeypatch) -> None:
    one = replace(catalog, classes=tuple(kind for kind in catalog.classes if kind.name == "dog"))
    made = []
    for name in ("a", "b"):
        monkeypatch.setattr(module, "cache_dir", lambda name=name: tmp_path / name)
        made.append(tagger_outputs(one, "cross", tagger, 4))
    assert np.array_equal(made[0].outputs, made[1].outputs) and made[0].mixed.shape == (0, tagger.dim)
