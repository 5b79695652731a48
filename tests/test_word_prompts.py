"""`--words`: the tags that everyday words stand for, without the text encoder."""

from __future__ import annotations

import sys

import pytest

from icf_avs.__main__ import main
from icf_avs.encoders.tagger_encoder import audio_words
from icf_avs.inference.word_prompts import find_tags, known_words, split_words

EVERYDAY = {  # a tag that the word must map to; "": the sound has no visible source
    "women": "female person", "speech": "person", "singing": "person", "applause": "people", "puppy": "dog",
    "baby crying": "human baby", "a man speaking": "male person", "a barking dog": "dog", "bird singing": "bird",
    "mooing": "cow", "guitar": "acoustic guitar", "violins": "violin", "police siren": "police car", "waves": "sea",
    "car horn": "car", "church bells": "church bell", "knocking": "door", "thunder": "", "music": "",
}  # fmt: skip


@pytest.mark.parametrize("word", EVERYDAY)
def test_everyday_words_map_to_the_right_tag(word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    tags = find_tags(word)
    assert tags is not None and set(tags) <= set(audio_words())
    assert EVERYDAY[word] in tags if EVERYDAY[word] else not tags


def test_words_do_not_map_to_objects_of_similar_name():
    assert "singing bowl" not in find_tags("singing") and find_tags("singing bowls") == ("singing bowl",)
    assert "french horn" not in find_tags("car horn") and "person" not in find_tags("bird singing")
    assert "female person" not in find_tags("man")
    assert split_words(" Dog, a  Car horn;; dog\n") == ["dog", "a car horn"]


def test_every_known_word_maps_to_tags(capsys: pytest.CaptureFixture[str]):
    assert {tag for tags in known_words().values() for tag in tags} == set(audio_words())
    assert "pans" in known_words() and not {"and pans", "etc."} & set(known_words())
    assert main(["words"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("bark" in line.partition(": ")[0].split(", ") and line.endswith(": dog") for line in lines)
    assert "thunder" in lines[-1] and lines[-1].endswith(": no visible object that the model knows makes this sound")
