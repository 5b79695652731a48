"""Cached tagger predictions for every sounding class: included classes, values, and caching."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tagger_weights import published_weights

from icf_avs.encoders.efficientat import load_efficientat
from icf_avs.encoders.tagger_encoder import WordTagger, audio_words
from icf_avs.synthetic import tagger_cache
from icf_avs.synthetic.catalog import HELD_OUT, Catalog, load_open_vocab_stamps
from icf_avs.synthetic.tagger_cache import tagger_outputs


def test_training_classes_are_tagged_as_their_words_once(catalog: Catalog, tmp_path: Path, monkeypatch) -> None:
    """Of six classes, three are held out. Predictions are cached until an input changes."""
    wanted = ("dog", "horse", "rooster", "duck", "violin", "rubber-duck")
    catalog = replace(catalog, classes=tuple(kind for kind in catalog.classes if kind.name in wanted))
    known = load_open_vocab_stamps(catalog.root, held_out=()).training_classes
    assert known >= {*HELD_OUT, "dog", "horse", "rooster"}
    tagger = WordTagger(load_efficientat(published_weights()), audio_words())
    monkeypatch.setattr(tagger_cache, "cache_dir", lambda: tmp_path)
    only = load_open_vocab_stamps(catalog.root).training_classes
    made = tagger_outputs(catalog, "train", tagger, 4, only)
    assert made.class_names == ("dog", "horse", "rooster") and made.outputs.shape == (3, 4, tagger.dim)
    assert made.silent.shape == (3, 1, tagger.dim) and len(made.noise) == 4
    assert len(made.mixed) == len(made.pairs) == 3 and (made.pairs[:, 0] != made.pairs[:, 1]).all()

    place, outputs = audio_words().index("dog"), made.outputs.astype(float)
    assert outputs[0].mean(0).argmax() == place and outputs[0, :, place].mean() > 0.2
    assert outputs[2, :, place].mean() < 0.1 and made.noise[:, place].max() < 0.1
    assert made.silent[0, :, place].mean() < 0.2, "only while it sounds"

    monkeypatch.setattr(tagger_cache, "noise", None)
    again = tagger_outputs(catalog, "train", tagger, 4, only=made.class_names)
    assert all(map(np.array_equal, vars(again).values(), vars(made).values()))
    reordered = WordTagger(tagger.network, (*audio_words()[1:], audio_words()[0]))
    for arguments in (("cross", tagger, 4), ("train", tagger, 5), ("train", reordered, 4)):
        with pytest.raises(TypeError, match="not callable"):
            tagger_outputs(catalog, *arguments)
