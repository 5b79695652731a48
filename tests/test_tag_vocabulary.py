"""Words for AudioSet tags: the table, the temporal localisation of tags, and padding."""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np
import pytest
import torch
from tagger_weights import published_weights
from torch import Tensor
from transformers import ASTConfig, ASTForAudioClassification

from icf_avs.encoders.ast_tagger import AST
from icf_avs.encoders.efficientat import EfficientAT, load_efficientat
from icf_avs.encoders.open_vocab_encoder import audioset_names
from icf_avs.encoders.tagger_encoder import RELATIVE_SCORE_FLOOR, WordTagger, audio_words, reflect_pad_silence
from icf_avs.media.audio_file import resample
from icf_avs.synthetic.catalog import Catalog
from icf_avs.synthetic.sounds import SoundBank

RATE = 32_000


@pytest.fixture(scope="module")
def tagger() -> WordTagger:
    path = published_weights()
    return WordTagger(load_efficientat(path), ("almond", *audio_words(), "yak"))


def tones(seconds: float, seed: int = 0) -> Tensor:
    """Harmonics of a tone with vibrato, and noise: the tagger assigns some word to it."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 2 * np.pi * np.cumsum(440 + 8 * np.sin(2 * np.pi * 5 * time)) / RATE
    tone = sum(np.sin(k * pitch) / k for k in range(1, 12))
    return torch.from_numpy((0.1 * tone + 0.002 * rng.standard_normal(len(time))).astype(np.float32))


def table() -> list[dict[str, str]]:
    with resources.files("icf_avs.encoders").joinpath("audioset_words.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_the_table_has_a_row_for_each_tag() -> None:
    rows = table()
    assert [int(row["index"]) for row in rows] == list(range(527))
    assert {row["use"] for row in rows} == {"0", "1", "2"}
    general = {row["word"] for row in rows if row["use"] == "2"}
    assert general == {"animal", "musical instrument", "vehicle", "tool"}
    assert not general & {row["word"] for row in rows if row["use"] == "1"}
    assert all(row["word"] == row["word"].strip().lower() and row["word"] for row in rows)
    word = {name: row["word"] for name, row in zip(audioset_names(), rows, strict=True) if row["use"] == "1"}
    assert {word[name] for name in ("Dog", "Bark", "Bow-wow", "Howl")} == {"dog"}
    assert [word[name] for name in ("Neigh, whinny", "Violin, fiddle", "Steam whistle")] == [
        "horse", "violin", "steam train"
    ]  # fmt: skip
    for name in ("Music", "Animal", "Silence", "White noise", "Inside, small room", "Echo", "Vehicle", "Sampler"):
        assert name not in word


def test_audio_words_are_the_used_words() -> None:
    words = audio_words()
    assert len(words) == len(set(words))
    assert set(words) == {row["word"] for row in table() if row["use"] != "0"}


def test_a_vocabulary_must_hold_all_audio_words() -> None:
    with pytest.raises(ValueError, match="the vocabulary lacks dog"):
        WordTagger(EfficientAT(), tuple(word for word in audio_words() if word != "dog"))


def test_a_word_has_the_weight_of_its_best_tag() -> None:
    """Compared with the rule computed tag by tag, for a clip of three masks."""
    words = ("almond", *reversed(audio_words()))
    tagger = WordTagger(EfficientAT(), words)
    window, middle = torch.rand(2, 1, 3, 527, generator=torch.Generator().manual_seed(0)) ** 4
    middle[0, 0, 74:79] = torch.tensor([0.2, 0.7, 0.1, 0.3, 0.0])
    window, middle = 0.6 * window, 0.6 * middle
    window[0, 0, 300], middle[0, :, 300] = 0.9, 0.95  # vehicle, more probable than any specific tag
    weights = tagger.weights(window, middle, torch.tensor([[1.0, 0.5, 0.01]]))[0]
    used = [(int(row["index"]), words.index(row["word"])) for row in table() if row["use"] == "1"]
    clip, expected = window[0].amax(0).double().numpy(), np.zeros((3, len(words)))
    for number in range(2):
        now, around = middle[0, number].double().numpy(), window[0, number].double().numpy()
        scores = np.cbrt(clip * now * around)
        best = max(scores[tag] for tag, _ in used)
        for tag, place in used:
            odds = scores[tag] / (1 - scores[tag]) / (best / (1 - best))
            weight = max(scores[tag], best * odds**0.5)
            expected[number, place] = max(expected[number, place], weight if weight >= RELATIVE_SCORE_FLOOR else 0)
        for row in table():
            if row["use"] == "2":  # what exceeds the most probable specific tag of the clip
                left = clip[int(row["index"])] - max(clip[tag] for tag, _ in used)
                place = words.index(row["word"])
                expected[number, place] = max(expected[number, place], left if left >= RELATIVE_SCORE_FLOOR else 0)
    assert np.abs(weights.numpy() - expected).max() < 1e-5
    assert (weights == 0).any() and not weights[:, 0].any()  # almond has no tag
    assert weights[0, words.index("vehicle")] > 0 and weights[1].any() and not weights[2].any()  # the third is quiet


def test_the_clip_decides_the_word_and_the_moment_its_time() -> None:
    tagger = WordTagger(EfficientAT(), audio_words())
    dog, train = tagger.words.index("dog"), tagger.words.index("train")
    tags = {row["word"]: int(row["index"]) for row in table() if row["use"] == "1"}
    window, middle = torch.full((2, 1, 3, 527), 1e-4)
    window[0, :, tags["train"]] = torch.tensor([0.9, 0.9, 0.3])
    window[0, :, tags["dog"]] = torch.tensor([0.3, 0.3, 0.4])
    middle[0, :, tags["train"]] = torch.tensor([0.9, 0.1, 0.02])
    middle[0, :, tags["dog"]] = torch.tensor([0.0, 0.2, 0.02])
    weights = tagger.weights(window, middle, torch.ones(1, 3))[0]
    assert weights.argmax(1).tolist() == [train] * 3  # also where the middle or the window favours dog
    assert weights[0, train] == pytest.approx(0.9) and not weights[0, dog]
    assert weights[1, dog] > 0.2, "its own score, and more where the train is unsure"
    pause = tagger.weights(window, middle, torch.tensor([[1.0, 0.1, 0.1]]))[0]
    assert pause[0].equal(weights[0]) and not pause[1:].any()
    middle[0, 1:] = 1e-4
    assert not tagger.weights(window, middle, torch.ones(1, 3))[0, 1:].any(), "nothing of it is heard in the middle"


def test_zero_padding_is_replaced_by_reflection() -> None:
    wave = torch.arange(1.0, 7.0)
    padded = torch.stack([
        torch.cat([torch.zeros(3), wave, torch.zeros(1)]),
        torch.cat([torch.zeros(2), wave, torch.zeros(2)]),
        torch.cat([wave, torch.zeros(4)]),
        torch.zeros(10),
        torch.cat([wave, torch.zeros(3), torch.ones(1)]),  # a pause is not padding
        torch.cat([torch.zeros(7), torch.ones(3)]),  # silent at its middle: unchanged
    ])  # fmt: skip
    expected = [
        [4, 3, 2, 1, 2, 3, 4, 5, 6, 5],
        [3, 2, 1, 2, 3, 4, 5, 6, 5, 4],
        [1, 2, 3, 4, 5, 6, 5, 4, 3, 2],
        [0] * 10,
        [1, 2, 3, 4, 5, 6, 0, 0, 0, 1],
        [0] * 7 + [1] * 3,
    ]
    assert reflect_pad_silence(padded).tolist() == expected


def test_tags_are_those_of_the_middle_second(tagger: WordTagger, catalog: Catalog) -> None:
    bark = SoundBank(catalog, "cross").loop_recording("dog", 80_000, np.random.default_rng(0))
    barks = resample(torch.from_numpy(bark)[None], 16_000, RATE)[0]
    time = torch.arange(len(barks)) / RATE
    hiss = 1e-4 * torch.randn(len(barks), generator=torch.Generator().manual_seed(1))
    inside = (time >= 2) & (time < 3)
    with torch.no_grad():
        clips = torch.stack([barks * inside + hiss, barks * ((time < 1.3) | (time >= 3.7)) + hiss, hiss])
        output = tagger(clips[:, None])[:, 0]
    assert output.shape == (3, tagger.dim) and tagger.dim == len(tagger.words)
    assert output[0, tagger.words.index("dog")] > 0.2 and not output[1:].any(), output.amax(1)


def test_padding_hardly_changes_the_tags(tagger: WordTagger) -> None:
    """In the first window of a video, zero padding changes the tags little, as it is replaced by reflection."""
    tone = tones(5.0)
    tone[: 2 * RATE] = 0
    whole = tones(7.0)[2 * RATE :]
    with torch.no_grad():
        padded, sound = tagger(tone[None, None])[0], tagger(whole[None, None])[0]
    assert (padded[:, : len(tagger.words)] - sound[:, : len(tagger.words)]).abs().max() < 0.35


def test_weights_are_in_0_to_1_at_any_loudness(tagger: WordTagger) -> None:
    with torch.no_grad():
        weights = tagger(torch.stack([tones(5.0, seed) * gain for seed, gain in ((0, 1.0), (1, 0.1), (2, 0.01))])[None])
    assert weights.min() >= 0 and weights.max() <= 1 and weights.isfinite().all()


def small_ast() -> AST:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return AST(ASTForAudioClassification(ASTConfig(num_labels=527, **sizes)), RATE)


@pytest.mark.parametrize(("network", "steps"), [(EfficientAT(RATE, True, 1.0), 16), (small_ast(), 50)])
def test_other_taggers_with_audioset_tags(network: EfficientAT | AST, steps: int) -> None:
    """Shapes only, with random weights."""
    tagger, waves = WordTagger(network, audio_words()), torch.stack([tones(5.0), torch.zeros(5 * RATE)])
    with torch.no_grad():
        columns = network.columns(waves)
        assert network.classifier(columns.mean(2)).shape == (2, 527) and columns.shape[2] == steps
        assert steps * network.step == pytest.approx(5.0, abs=network.step)
        weights = tagger(waves[None])[0]
    assert weights.shape == (2, tagger.dim) and weights[0].any() and not weights[1].any()
