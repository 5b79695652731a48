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
def ear(names: torch.Tensor) -> TaggerEncoder:
    torch.manual_seed(0)
    return TaggerEncoder(DIM, WordTagger(EfficientAT(RATE, frozen=True), WORDS), names)


def heard(**weights: float) -> torch.Tensor:
    """Tag weights [1, words]; words that are not given have weight 0."""
    row = torch.zeros(1, len(WORDS))
    for word, weight in weights.items():
        row[0, WORDS.index(word)] = weight
    return row


def test_a_mixture_by_hand(ear: TaggerEncoder) -> None:
    token, tokens, _ = ear.encode_tags(heard(dog=0.6, cat=0.2))
    places = [WORDS.index("dog"), WORDS.index("cat")]
    vectors = ear.project(F.normalize(ear.names - ear.names.mean(0), dim=-1))[places]
    torch.testing.assert_close(token[0], ear.norm(0.75 * vectors[0] + 0.25 * vectors[1]))
    mixed = 0.75 * vectors[0] + 0.25 * vectors[1]
    torch.testing.assert_close(tokens[0, 0], ear.norm(mixed + 0.75 * (vectors[0] - mixed)))
    assert token.shape == (1, DIM) and tokens.shape == (1, 6, DIM)
    torch.testing.assert_close(tokens[0, 2:], token.expand(4, -1))  # there is no third word


def test_what_is_faint_is_nothing_in_part(ear: TaggerEncoder) -> None:
    silent, surely = ear.encode_tags(heard())[0], ear.encode_tags(heard(dog=FULL_CONFIDENCE_SCORE))[0]
    torch.testing.assert_close(silent[0], ear.norm(ear.nothing))
    torch.testing.assert_close(ear.encode_tags(heard(dog=1.0))[0], surely)
    faint = ear.encode_tags(heard(dog=FULL_CONFIDENCE_SCORE / 2))[0]
    assert F.cosine_similarity(faint, silent) > F.cosine_similarity(surely, silent)


def test_only_what_reads_the_words_trains(ear: TaggerEncoder) -> None:
    sound = heard(dog=0.5)
    ear.encode_tags(sound)[0].square().sum().backward()
    trained = {name.partition(".")[0] for name, value in ear.named_parameters() if value.requires_grad}
    assert trained == {"project", "nothing", "norm"}
    assert all(value.grad is None for value in ear.heard.parameters())


def test_a_recording_enters_by_its_words(names: torch.Tensor, catalog: Catalog) -> None:
    found = published_weights()
    torch.manual_seed(0)
    ear = load_tagger_encoder(DIM, WORDS, names, weights=found)
    wave = resample(
        trim_and_normalize(
            read_audio(catalog.read_recording(catalog.sound_class("dog").cross_recordings[0]), 16_000)[0]
        ),
        16_000 / RATE,
    )
    wave = torch.from_numpy(wave).repeat(-(-160_000 // len(wave)))[None, :160_000]
    said = ear.heard(wave[None])[0]
    assert WORDS[said[0, : len(WORDS)].argmax()] == "dog"
    torch.testing.assert_close(ear(wave)[0], ear.encode_tags(said)[0])
    assert ear(wave)[2].equal(said)
    with pytest.raises(ValueError, match="does not train"):
        load_tagger_encoder(DIM, WORDS, names, weights=found, frozen=False)
