"""The audio encoder over tagger words: hand-worked, and on a real recording."""

from __future__ import annotations

import pytest
import torch
from tagger_weights import published_weights
from torch.nn import functional as F

from icf_avs.encoders.efficientat import EfficientAT
from icf_avs.encoders.tagger_encoder import (
    FULL_CONFIDENCE_SCORE,
    RATE,
    TaggerEncoder,
    WordTagger,
    audio_words,
    load_tagger_encoder,
)
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.media.audio_file import read_audio
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.sounds import resample, trim_and_normalize

WORDS = audio_words()
DIM = 16


@pytest.fixture(scope="module")
def names() -> torch.Tensor:
    return embed_with_minilm(WORDS)


@pytest.fixture
def word_encoder(names: torch.Tensor) -> TaggerEncoder:
    torch.manual_seed(0)
    return TaggerEncoder(DIM, WordTagger(EfficientAT(RATE, frozen=True), WORDS), names)


def heard(**weights: float) -> torch.Tensor:
    """Tag weights [1, words]; words that are not given have weight 0."""
    row = torch.zeros(1, len(WORDS))
    for word, weight in weights.items():
        row[0, WORDS.index(word)] = weight
    return row


def test_a_mixture_by_hand(word_encoder: TaggerEncoder) -> None:
    token, tokens, _ = word_encoder.encode_tags(heard(dog=0.6, cat=0.2))
    places = [WORDS.index("dog"), WORDS.index("cat")]
    vectors = word_encoder.project(F.normalize(word_encoder.names - word_encoder.names.mean(0), dim=-1))[places]
    torch.testing.assert_close(token[0], word_encoder.norm(0.75 * vectors[0] + 0.25 * vectors[1]))
    mixed = 0.75 * vectors[0] + 0.25 * vectors[1]
    torch.testing.assert_close(tokens[0, 0], word_encoder.norm(mixed + 0.75 * (vectors[0] - mixed)))
    assert token.shape == (1, DIM) and tokens.shape == (1, 6, DIM)
    torch.testing.assert_close(tokens[0, 2:], token.expand(4, -1))  # there is no third word


def test_faint_tags_are_mixed_with_silence(word_encoder: TaggerEncoder) -> None:
    silent, surely = word_encoder.encode_tags(heard())[0], word_encoder.encode_tags(heard(dog=FULL_CONFIDENCE_SCORE))[0]
    torch.testing.assert_close(silent[0], word_encoder.norm(word_encoder.nothing))
    torch.testing.assert_close(word_encoder.encode_tags(heard(dog=1.0))[0], surely)
    faint = word_encoder.encode_tags(heard(dog=FULL_CONFIDENCE_SCORE / 2))[0]
    assert F.cosine_similarity(faint, silent) > F.cosine_similarity(surely, silent)


def test_only_the_projection_of_words_trains(word_encoder: TaggerEncoder) -> None:
    sound = heard(dog=0.5)
    word_encoder.encode_tags(sound)[0].square().sum().backward()
    trained = {name.partition(".")[0] for name, value in word_encoder.named_parameters() if value.requires_grad}
    assert trained == {"project", "nothing", "norm"}
    assert all(value.grad is None for value in word_encoder.heard.parameters())


def test_a_recording_is_encoded_by_its_tags(names: torch.Tensor, catalog: Catalog) -> None:
    found = published_weights()
    torch.manual_seed(0)
    word_encoder = load_tagger_encoder(DIM, WORDS, names, weights=found)
    recording = catalog.read_recording(catalog.sound_class("dog").cross_recordings[0])
    wave = resample(trim_and_normalize(read_audio(recording, 16_000)[0]), 16_000 / RATE)
    wave = torch.from_numpy(wave).repeat(-(-160_000 // len(wave)))[None, :160_000]
    said = word_encoder.heard(wave[None])[0]
    assert WORDS[said[0, : len(WORDS)].argmax()] == "dog"
    torch.testing.assert_close(word_encoder(wave)[0], word_encoder.encode_tags(said)[0])
    assert word_encoder(wave)[2].equal(said)
    with pytest.raises(ValueError, match="does not train"):
        load_tagger_encoder(DIM, WORDS, names, weights=found, frozen=False)
