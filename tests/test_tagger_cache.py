"""The library of what is heard of every sounding kind: who is in it, when it sounds, and that it is made once."""

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


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """Six kinds, three of them held out."""
    whole = load_catalog()
    wanted = ("dog", "horse", "rooster", "duck", "violin", "rubber-duck")
    return replace(whole, classes=tuple(kind for kind in whole.classes if kind.name in wanted))


@pytest.fixture(scope="module")
def hears() -> WordTagger:
    path = published_weights()
    return WordTagger(load_efficientat(path), audio_words())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for what is heard; the files of the benchmark have been found by then."""
    monkeypatch.setattr(module, "cache_dir", lambda: cache)
    return cache


@pytest.fixture
def library(catalog: Catalog, hears: WordTagger, own_cache: Path) -> TaggerOutputs:
    return tagger_outputs(catalog, "train", hears, VARIANTS, only=load_open_vocab_stamps(catalog.root).training_classes)


def words(outputs: np.ndarray) -> np.ndarray:
    return outputs.astype(float)


def test_training_does_not_hear_what_is_held_out(catalog: Catalog, hears: WordTagger, library: TaggerOutputs) -> None:
    assert library.class_names == ("dog", "horse", "rooster")
    other = tagger_outputs(catalog, "train", hears, VARIANTS, only=HELD_OUT)
    assert set(other.class_names) == {"duck", "violin", "rubber-duck"}
    known = load_open_vocab_stamps(catalog.root, held_out=()).training_classes
    assert known >= set(HELD_OUT) | set(library.class_names) and not set(library.class_names) & set(HELD_OUT)


def test_shapes_and_scales(library: TaggerOutputs, hears: WordTagger) -> None:
    assert library.outputs.shape == (3, VARIANTS, hears.dim)
    assert library.silent.shape == (3, VARIANTS // 4, hears.dim)
    assert library.noise.shape == (VARIANTS, hears.dim)
    assert library.mixed.shape == (3 * VARIANTS // 4, hears.dim)
    assert library.pairs.shape == (3 * VARIANTS // 4, 2) and (library.pairs[:, 0] != library.pairs[:, 1]).all()
    assert library.outputs.dtype == library.mixed.dtype == np.float16
    assert words(library.outputs).min() >= 0 and words(library.outputs).max() <= 1


def test_a_kind_is_heard_by_its_word_and_only_while_it_sounds(library: TaggerOutputs) -> None:
    dog = library.class_names.index("dog")
    barks = words(library.outputs)[dog].mean(0)
    assert audio_words()[int(barks.argmax())] == "dog"
    place = audio_words().index("dog")
    assert words(library.outputs)[dog, :, place].mean() > 0.2
    assert words(library.outputs)[library.class_names.index("rooster"), :, place].mean() < 0.1
    assert words(library.silent)[dog, :, place].mean() < 0.2
    assert words(library.noise)[:, place].max() < 0.1


def test_variants_differ(library: TaggerOutputs) -> None:
    for word_of_class in library.outputs.astype(float):
        assert len(np.unique(word_of_class.round(2), axis=0)) > VARIANTS // 2


def test_it_is_made_once_and_again_when_anything_changes(
    catalog: Catalog, hears: WordTagger, library: TaggerOutputs, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = set((own_cache / "heard").iterdir())

    def fail(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(module, "noise", fail)
    again = tagger_outputs(catalog, "train", hears, VARIANTS, only=library.class_names)
    assert again.class_names == library.class_names
    assert all(
        np.array_equal(getattr(again, name), getattr(library, name))
        for name in ("outputs", "silent", "noise", "pairs", "mixed")
    )
    assert not any(folder.name.endswith(".partial") for folder in folders)
    reordered = WordTagger(hears.network, (*audio_words()[1:], audio_words()[0]))
    for arguments in ((catalog, "cross", hears, 4), (catalog, "train", hears, 5), (catalog, "train", reordered, 4)):
        with pytest.raises(AssertionError, match="made again"):
            tagger_outputs(*arguments)


def test_the_same_everywhere(
    catalog: Catalog, hears: WordTagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replace(catalog, classes=tuple(kind for kind in catalog.classes if kind.name == "dog"))
    made = []
    for name in ("a", "b"):
        monkeypatch.setattr(module, "cache_dir", lambda name=name: tmp_path / name)
        made.append(tagger_outputs(one, "cross", hears, 4))
    assert np.array_equal(made[0].outputs, made[1].outputs) and made[0].mixed.shape == (0, hears.dim)
