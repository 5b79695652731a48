"""Audio taggers against published numbers, words for their tags, the encoder over these, and cached predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tagger_weights import published_weights
from torch import Tensor
from torch.nn import functional as F
from transformers import ASTConfig, ASTForAudioClassification

from icf_avs.encoders.open_vocab_encoder import audioset_names
from icf_avs.encoders.tagger_encoder import (
    FULL_CONFIDENCE_SCORE,
    RELATIVE_SCORE_FLOOR,
    TaggerEncoder,
    WordTagger,
    audio_words,
    reflect_pad_silence,
)
from icf_avs.encoders.taggers import AST, SAMPLE_RATE, EfficientAT, kaldi_log_mel, load_efficientat
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.weights import read_rows
from icf_avs.media.audio_file import resample
from icf_avs.synthetic import tagger_cache
from icf_avs.synthetic.catalog import HELD_OUT, Catalog, load_open_vocab_stamps
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.synthetic.tagger_cache import tagger_outputs
from research.onsets import scores

GOLDEN = json.loads((Path(__file__).parent / "golden" / "efficientat.json").read_text())
WORDS, DIM = audio_words(), 16
TABLE = read_rows("audioset_words.csv")
SPECIFIC = {int(row["index"]): row["word"] for row in TABLE if row["use"] == "1"}
GENERAL = {int(row["index"]): row["word"] for row in TABLE if row["use"] == "2"}


def numpy_log_mel(wave: NDArray) -> NDArray:
    """[n] -> [128, frames], frame by frame and filter by filter, as in Kaldi's documentation."""
    sharp = wave[1:] - 0.97 * wave[:-1]
    mirrored = np.concatenate([sharp[512:0:-1], sharp, sharp[-2:-514:-1]])
    window = np.zeros(1024)
    window[112:912] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 799)
    frames = np.stack([mirrored[at : at + 1024] * window for at in range(0, len(sharp) + 1, 320)])
    power = np.abs(np.fft.fft(frames)[:, :513]) ** 2
    mels = 1127 * np.log(1 + np.arange(513) * 31.25 / 700)
    step = 1127 * np.log(1 + 15_000 / 700) / 129
    bank = np.stack([np.maximum(0, 1 - np.abs(mels - (band + 1) * step) / step) for band in range(128)])
    return (np.log(bank @ power.T + 1e-5) + 4.5) / 5


@pytest.mark.parametrize("samples", [514, 48_123])
def test_the_front_end_equals_a_numpy_one(samples: int) -> None:
    wave = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(5))
    mel = kaldi_log_mel(wave)
    assert mel.shape == (2, 128, 1 + (samples - 1) // 320)
    expected = np.stack([numpy_log_mel(one.double().numpy()) for one in wave])
    assert np.abs(mel.numpy() - expected).max() < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kaldi_log_mel(wave), mel)


def test_sizes_equal_the_published_file_of_mn10() -> None:
    """The counts are known from code that pins the file."""
    network = EfficientAT(width=1.0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_876_831
    state = network.state_dict().values()
    assert len(state) == 312 and sum(tensor.numel() for tensor in state) == 4_901_277


@pytest.mark.parametrize(("rate", "to"), [(16_000, 32_000), (32_000, 16_000), (22_050, 32_000)])
def test_resampling_keeps_tones_below_nyquist_and_drops_those_above(rate: int, to: int) -> None:
    time, later = np.arange(12_345) / rate, np.arange(-(-12_345 * to // rate)) / to
    for hertz, tolerance in ((60.0, 2e-5), (1234.5, 2e-5), (0.4 * min(rate, to), 1e-3)):
        found = resample(torch.from_numpy(np.sin(2 * np.pi * hertz * time)).float(), rate, to).numpy()
        assert np.abs(found - np.sin(2 * np.pi * hertz * later))[500:-500].max() < tolerance
    if to < rate:
        alias = resample(torch.from_numpy(np.sin(2 * np.pi * 0.56 * to * time)).float(), rate, to)
        assert alias[500:-500].abs().max() < 1e-3


@torch.no_grad()
def test_equals_the_published_network() -> None:
    """On a rising tone in a little noise. Silence is tagged as such."""
    published = load_efficientat(published_weights())
    for window in GOLDEN["windows"]:
        time = np.arange(round(window["seconds"] * 32_000)) / 32_000
        noise = np.random.default_rng(7).standard_normal(len(time))
        wave = 0.3 * np.sin(2 * np.pi * (200 * time + 900 * time**2)) + 0.02 * noise
        embedding = published.columns(torch.from_numpy(wave.astype(np.float32))[None]).mean(2)
        logits = published.classifier(embedding)
        values, order = logits[0].topk(5)
        assert [audioset_names()[i] for i in order.tolist()] == list(window["top"])
        assert values.tolist() == pytest.approx(list(window["top"].values()), abs=1e-3)
        assert logits[0, ::50].tolist() == pytest.approx(window["every_50th_logit"], abs=1e-3)
        assert embedding[0, ::40].tolist() == pytest.approx(window["every_40th_of_embedding"], abs=1e-3)
    logits = published.classifier(published.columns(torch.zeros(1, 64_000)).mean(2))
    assert audioset_names()[int(logits[0].argmax())] == "Silence"
    assert not any(module.training for module in published.train().modules())


def test_the_table_has_a_row_for_each_tag() -> None:
    assert [int(row["index"]) for row in TABLE] == list(range(527)) and {row["use"] for row in TABLE} == {*"012"}
    assert set(GENERAL.values()) == {"animal", "musical instrument", "vehicle", "tool"}
    assert len(WORDS) == len(set(WORDS)) and set(WORDS) == {*SPECIFIC.values(), *GENERAL.values()}
    assert not {*SPECIFIC.values()} & {*GENERAL.values()}
    word = {name: SPECIFIC[index] for index, name in enumerate(audioset_names()) if index in SPECIFIC}
    assert [word[name] for name in ("Dog", "Bark", "Violin, fiddle")] == ["dog", "dog", "violin"]
    assert not word.keys() & {"Music", "Animal", "Silence", "White noise", "Echo", "Vehicle", "Sampler"}
    with pytest.raises(ValueError, match="the vocabulary lacks dog"):
        WordTagger(EfficientAT(), tuple(word for word in WORDS if word != "dog"))


def test_a_word_has_the_weight_of_its_best_tag() -> None:
    """Compared with the rule computed tag by tag, for a clip of three masks."""
    words = ("almond", *reversed(WORDS))
    tagger = WordTagger(EfficientAT(), words)
    window, middle = torch.rand(2, 1, 3, 527, generator=torch.Generator().manual_seed(0)) ** 4
    middle[0, 0, 74:79] = torch.tensor([0.2, 0.7, 0.1, 0.3, 0.0])
    window, middle = 0.6 * window, 0.6 * middle
    window[0, 0, 300], middle[0, :, 300] = 0.9, 0.95  # vehicle, more probable than any specific tag
    weights = tagger.weights(window, middle, torch.tensor([[1.0, 0.5, 0.01]]))[0]
    clip, expected = window[0].amax(0).double().numpy(), np.zeros((3, len(words)))
    for number in range(2):
        now, around = middle[0, number].double().numpy(), window[0, number].double().numpy()
        scores = np.cbrt(clip * now * around)
        best = max(scores[tag] for tag in SPECIFIC)
        odds = scores / (1 - scores) / (best / (1 - best))
        found = [(words.index(word), max(scores[tag], best * odds[tag] ** 0.5)) for tag, word in SPECIFIC.items()]
        most = max(clip[tag] for tag in SPECIFIC)  # a general tag counts by what exceeds it
        found += [(words.index(word), clip[tag] - most) for tag, word in GENERAL.items()]
        for place, weight in found:
            expected[number, place] = max(expected[number, place], weight if weight >= RELATIVE_SCORE_FLOOR else 0)
    assert np.abs(weights.numpy() - expected).max() < 1e-5
    assert (weights == 0).any() and not weights[:, 0].any()  # almond has no tag
    assert weights[0, words.index("vehicle")] > 0 and weights[1].any() and not weights[2].any()  # the third is quiet


def test_zero_padding_is_replaced_by_reflection() -> None:
    both_ends, pause, late = [0, 0, 0, 1, 2, 3, 4, 5, 6, 0], [1, 2, 3, 4, 5, 6, 0, 0, 0, 1], [0] * 7 + [1] * 3
    found = reflect_pad_silence(torch.tensor([both_ends, pause, late]).float()).tolist()
    assert found == [[4, 3, 2, 1, 2, 3, 4, 5, 6, 5], pause, late], "not a pause, nor silence at the middle"


def test_tags_are_those_of_the_middle_second(catalog: Catalog) -> None:
    tagger = WordTagger(load_efficientat(published_weights()), ("almond", *WORDS, "yak"))
    bark = SoundBank(catalog, "cross").loop_recording("dog", 80_000, np.random.default_rng(0))
    barks = resample(torch.from_numpy(bark)[None], 16_000, SAMPLE_RATE)[0]
    time = torch.arange(len(barks)) / SAMPLE_RATE
    hiss = 1e-4 * torch.randn(len(barks), generator=torch.Generator().manual_seed(1))
    inside = (time >= 2) & (time < 3)
    with torch.no_grad():
        clips = torch.stack([barks * inside + hiss, barks * ((time < 1.3) | (time >= 3.7)) + hiss, hiss])
        output = tagger(clips[:, None])[:, 0]
        assert output.shape == (3, tagger.dim) and output.min() >= 0 and output.max() <= 1
        assert output[0, tagger.words.index("dog")] > 0.2 and not output[1:].any(), output.amax(1)


@torch.no_grad()
def test_other_taggers_with_audioset_tags() -> None:
    """Shapes only, with random weights."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    small_ast = AST(ASTForAudioClassification(ASTConfig(num_labels=527, **sizes)))
    waves = torch.stack([0.1 * torch.randn(5 * SAMPLE_RATE), torch.zeros(5 * SAMPLE_RATE)])
    for network, steps in ((EfficientAT(width=1.0), 16), (small_ast, 50)):
        assert network.columns(waves).shape[2] == steps == round(5 / network.step)
        weights = WordTagger(network, WORDS)(waves[None])[0]
        assert weights[0].any() and not weights[1].any()


def heard(**weights: float) -> Tensor:
    """Tag weights [1, words]; words that are not given have weight 0."""
    row = torch.zeros(1, len(WORDS))
    for word, weight in weights.items():
        row[0, WORDS.index(word)] = weight
    return row


def test_a_mixture_by_hand_and_faint_tags_with_silence() -> None:
    torch.manual_seed(0)
    names = embed_with_minilm(WORDS)
    encoder = TaggerEncoder(DIM, WordTagger(EfficientAT(), WORDS), names)
    token, tokens, _ = encoder.encode_tags(heard(dog=0.6, cat=0.2))
    places = [WORDS.index("dog"), WORDS.index("cat")]
    vectors = encoder.project(F.normalize(names - names.mean(0), dim=-1))[places]
    mixed = 0.75 * vectors[0] + 0.25 * vectors[1]
    torch.testing.assert_close(token[0], encoder.norm(mixed))
    torch.testing.assert_close(tokens[0, 0], encoder.norm(mixed + 0.75 * (vectors[0] - mixed)))
    torch.testing.assert_close(tokens[0, 2:], token.expand(4, -1))  # there is no third word
    silent, faint, surely, loud = (
        encoder.encode_tags(heard(dog=score))[0] for score in (0, FULL_CONFIDENCE_SCORE / 2, FULL_CONFIDENCE_SCORE, 1)
    )
    torch.testing.assert_close(silent[0], encoder.norm(encoder.nothing))
    torch.testing.assert_close(loud, surely)
    assert F.cosine_similarity(faint, silent) > F.cosine_similarity(surely, silent)
    faint.square().sum().backward()
    trained = {name.partition(".")[0] for name, value in encoder.named_parameters() if value.grad is not None}
    assert trained == {"project", "nothing", "norm"}


def test_scores_on_sounds_that_start_and_stop_by_hand() -> None:
    """One clip with a pause, two without; the last is always tagged wrongly."""
    on = torch.tensor([[True, True, False, False], [True] * 4, [True] * 4])
    right = torch.tensor([[False, True], [False, True], [False, True]])
    weights = torch.zeros(3, 4, 2)
    weights[0, :3] = torch.tensor([[0.2, 0.5], [0.5, 0.2], [0.0, 0.1]])  # right, another word, in a pause
    weights[1, :3, 1] = 0.3
    weights[2, :, 0] = 0.3
    found = scores(weights, on, right)
    assert found["f1"] == pytest.approx(2 * 2 / (3 + 2))
    assert found["right"] == pytest.approx((1 + 3 + 0) / (2 + 4 + 4))
    assert found["lost"] == pytest.approx(1 / 4)


def test_training_classes_are_tagged_as_their_words_once(catalog: Catalog, tmp_path: Path, monkeypatch) -> None:
    """Of six classes, three are held out. Predictions are cached until an input changes."""
    wanted = ("dog", "horse", "rooster", "duck", "violin", "rubber-duck")
    catalog = replace(catalog, classes=tuple(kind for kind in catalog.classes if kind.name in wanted))
    known = load_open_vocab_stamps(catalog.root, held_out=()).training_classes
    assert known >= {*HELD_OUT, "dog", "horse", "rooster"}
    tagger = WordTagger(load_efficientat(published_weights()), audio_words())
    monkeypatch.setattr(tagger_cache, "cache_dir", lambda: tmp_path)
    only = load_open_vocab_stamps(catalog.root).training_classes
    made = tagger_outputs(catalog, "train", tagger, only, 4)
    assert made.class_names == ("dog", "horse", "rooster") and made.outputs.shape == (3, 4, tagger.dim)
    assert made.silent.shape == (3, 1, tagger.dim) and len(made.noise) == 4
    assert len(made.mixed) == len(made.pairs) == 3 and (made.pairs[:, 0] != made.pairs[:, 1]).all()

    place, outputs = audio_words().index("dog"), made.outputs.astype(float)
    assert outputs[0].mean(0).argmax() == place and outputs[0, :, place].mean() > 0.2
    assert outputs[2, :, place].mean() < 0.1 and made.noise[:, place].max() < 0.1
    assert made.silent[0, :, place].mean() < 0.2, "only while it sounds"

    monkeypatch.setattr(tagger_cache, "noise", None)
    again = tagger_outputs(catalog, "train", tagger, made.class_names, 4)
    assert all(map(np.array_equal, vars(again).values(), vars(made).values()))
    reordered = WordTagger(tagger.network, (*audio_words()[1:], audio_words()[0]))
    for recordings, other, variants in (("cross", tagger, 4), ("train", tagger, 5), ("train", reordered, 4)):
        with pytest.raises(TypeError, match="not callable"):
            tagger_outputs(catalog, recordings, other, only, variants)
