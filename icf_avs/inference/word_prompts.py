"""Map words that a user asks for, as in `--words "barking, car horn"`, to tags of the vocabulary.

The mapping uses tables, so that no text encoder is needed: everyday_words.csv, then the tags themselves and AudioSet's
names of sounds. Plurals and verb forms are matched, and a phrase ("barking dog") may be matched word by word. Words in
no table are compared by text embeddings: those in the checkpoint or, if installed, from the text encoder.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.config import EvidenceConfig
from icf_avs.console import note
from icf_avs.encoders.open_vocab_encoder import audioset_names
from icf_avs.encoders.tagger_encoder import audio_words
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.weights import read_rows
from icf_avs.errors import UserError, did_you_mean
from icf_avs.networks.open_vocabulary import OpenVocabularyNetwork
from icf_avs.networks.segmentation_model import SegmentationModel

LIST = "`icf words` lists what can be asked for"
NOT_VISIBLE = "no visible object that the model knows makes this sound"
_IGNORED_WORDS = {"a", "an", "the", "my", "some", "of", "on", "and"}
_SUFFIXES = (("", ""), ("ies", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"))
_MAX_SUGGESTIONS, _MIN_SIMILARITY = 3, 0.75  # suggestions for an unknown word: number, and least similarity


class Prompt(NamedTuple):
    """A requested word and the tags it maps to; no tags if nothing visible makes the sound."""

    word: str
    tags: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.word}: {', '.join(self.tags) or NOT_VISIBLE}"


def split_words(text: str) -> list[str]:
    """Split at commas or semicolons, in lower case. Raises UserError if there are no words or it is not a string."""
    if not isinstance(text, str):
        raise UserError(f"words are {text!r}; give a string with commas between them: 'dog, violin'")
    words = [" ".join(word.split()).lower() for word in re.split("[,;\n]", text)]
    if not any(words):
        raise UserError(f"--words names nothing; give one or more with commas between them: 'dog, violin'. {LIST}")
    return list(dict.fromkeys(filter(None, words)))


@lru_cache(maxsize=1)
def known_words() -> dict[str, tuple[str, ...]]:
    """Return all words in the tables and the tags they map to."""
    known: dict[str, tuple[str, ...]] = {word: (word,) for word in audio_words()}
    for row in read_rows("everyday_words.csv"):
        tags = tuple(filter(None, row["tags"].split(";")))
        known |= dict.fromkeys(row["words"].split(";"), tags)
    tags_by_name: dict[str, list[str]] = defaultdict(list)  # "Vehicle horn, car horn, honking" are three names
    for name, row in zip(audioset_names(), read_rows("audioset_words.csv"), strict=True):
        for part in re.sub(r" \(.*\)|(?<=, )and |, etc\.", "", name.lower()).split(", "):
            tags_by_name[part] += [row["word"]] if row["use"] != "0" else []
    return {word: tuple(dict.fromkeys(tags)) for word, tags in tags_by_name.items()} | known


def find_tags(phrase: str) -> tuple[str, ...] | None:
    """Return the tags of a word or phrase; () if nothing visible makes the sound, None if it is in no table."""
    words = [word for word in phrase.split() if word not in _IGNORED_WORDS]
    nouns = [word for word in words if not word.endswith("ing")]
    for form in chain(_forms(phrase), _forms(" ".join(words)), _forms(" ".join(nouns))):
        if form in known_words():
            return known_words()[form]
    if not nouns or len(words) < 2:
        return None
    tags_of_nouns = [tags for noun in nouns if (tags := find_tags(noun)) is not None]
    return tuple(dict.fromkeys(chain(*tags_of_nouns))) if len(tags_of_nouns) == len(nouns) else None


def _forms(word: str) -> Iterator[str]:
    """Yield the word and its possible base forms (singular, infinitive)."""
    yield from (word.removesuffix(ending) + stem for ending, stem in _SUFFIXES if word.endswith(ending))
    yield re.sub(r"(.)\1(ing|ed)$", r"\1", word)


def prompted_words(model: SegmentationModel, text: str) -> Tensor:
    """Return the tags of the words in `text` as bool [C]. Raises UserError as find_prompts does."""
    selected = {tag for prompt in find_prompts(model, text) for tag in prompt.tags}
    return torch.tensor([word in selected for word in model.classes])


def find_prompts(model: SegmentationModel, text: str) -> list[Prompt]:
    """Map each word in `text`, separated by commas or semicolons, to tags.

    Raises UserError for a model without tags, if there is no word or an unknown one, and if nothing visible makes any
    of the sounds.
    """
    if not isinstance(model.network, OpenVocabularyNetwork):
        raise UserError("--words needs a checkpoint with a sound tagger; take --checkpoint natural")
    prompts, unknown = [], []
    for word in split_words(text):
        if (tags := find_tags(word)) is None:
            tags = _similar_tags(model, word)
            hint = did_you_mean(word, known_words(), _MAX_SUGGESTIONS, _MIN_SIMILARITY)
            unknown += [] if tags else [f"{word!r}: no such word is known{hint}"]
        prompts.append(Prompt(word, tags))
    if unknown:
        raise UserError(f"{' '.join(unknown)} {LIST}")
    if not any(prompt.tags for prompt in prompts):
        raise UserError(f"nothing to segment: {'; '.join(map(str, prompts))}. {LIST}")
    return prompts


def _similar_tags(model: SegmentationModel, word: str) -> tuple[str, ...]:
    """Return the tags whose text embedding is similar to that of the word."""
    names = F.normalize(cast(Tensor, model.audio.names).cpu(), dim=-1)
    try:
        vector = names[model.classes.index(word)] if word in model.classes else embed_with_minilm((word,))[0]
    except UserError:  # the text encoder is not installed
        return ()
    similar = (names @ vector > cast(EvidenceConfig, model.config.evidence).synonym_threshold).tolist()
    return tuple(name for name, same in zip(model.classes, similar, strict=True) if same and name in audio_words())


def log_prompts(model: SegmentationModel, text: str) -> None:
    """Print to standard error the tags of each word that is not itself a tag. Raises UserError as find_prompts does."""
    for prompt in find_prompts(model, text):
        if prompt.tags != (prompt.word,):
            note(str(prompt))
