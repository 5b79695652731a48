"""`--words`: the tags that everyday words stand for, without the text encoder."""

from __future__ import annotations

import sys

import pytest

from icf_avs.__main__ import main
from icf_avs.encoders.tagger_encoder import audio_words
from icf_avs.errors import UserError
from icf_avs.inference.word_prompts import find_tags, known_words, split_words

EVERYDAY = {  # a tag that the word must map to; "": the sound has no visible source
    "man": "male person", "woman": "female person", "women": "female person", "baby": "human baby",
    "children": "young person", "kids": "young person", "people": "people", "speech": "person", "voice": "person",
    "talking": "person", "singing": "person", "laughing": "person", "screaming": "person", "crying": "person",
    "baby crying": "human baby", "a man speaking": "male person", "applause": "people", "clapping": "people",
    "crowd": "people", "footsteps": "person", "coughing": "person", "dogs": "dog", "barking": "dog",
    "a barking dog": "dog", "puppy": "dog", "kittens": "cat", "meowing": "cat", "birds": "bird",
    "bird singing": "bird", "chirping": "bird", "roosters": "rooster", "cows": "cow", "mooing": "cow",
    "sheep": "sheep", "horses": "horse", "galloping": "horse", "bees": "bee", "lion": "lion tiger",
    "elephant": "animal", "guitar": "acoustic guitar", "drums": "drum kit", "violins": "violin", "piano": "piano",
    "trumpets": "trumpet", "siren": "emergency vehicle", "police siren": "police car", "car horn": "car",
    "honking": "car", "traffic": "truck", "motorbike": "motorcycle", "trains": "train", "plane": "airplane",
    "engine": "car", "church bells": "church bell", "telephone ringing": "telephone", "typing": "computer keyboard",
    "knocking": "door", "vacuum": "vacuum cleaner", "gunshots": "gun", "waves": "sea", "thunder": "", "wind": "",
    "rain": "", "music": "", "silence": "", "thunder storm": "",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_text_encoder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)


@pytest.mark.parametrize("word", EVERYDAY)
def test_everyday_words_map_to_the_right_tag(word: str):
    tags = find_tags(word)
    assert tags is not None and set(tags) <= set(audio_words())
    assert EVERYDAY[word] in tags if EVERYDAY[word] else not tags


def test_words_do_not_map_to_objects_of_similar_name():
    assert "singing bowl" not in find_tags("singing") and find_tags("singing bowls") == ("singing bowl",)
    assert find_tags("wind chime") == ("wind chime",) and find_tags("french horn") == ("french horn",)
    assert "french horn" not in find_tags("car horn") and "person" not in find_tags("bird singing")
    assert "female person" not in find_tags("man")


def test_words_are_separated_by_commas_or_semicolons():
    assert split_words(" Dog, a  Car horn;; dog\n") == ["dog", "a car horn"]
    for nothing in ("", " ,; "):
        with pytest.raises(UserError, match="names nothing"):
            split_words(nothing)


def test_every_known_word_maps_to_tags(capsys: pytest.CaptureFixture[str]):
    assert {tag for tags in known_words().values() for tag in tags} == set(audio_words())
    assert "pans" in known_words() and not {"and pans", "etc."} & set(known_words())
    assert main(["words"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("bark" in line.partition(": ")[0].split(", ") and line.endswith(": dog") for line in lines)
    assert "thunder" in lines[-1] and lines[-1].endswith(": no visible object that the model knows makes this sound")
