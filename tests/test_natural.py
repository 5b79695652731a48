"""Model `natural`: audio as tag probabilities, word prompts that restrict them, and its scores."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip_maker import make_clip, tone

import icf_avs
from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint, save_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.config import ModelConfig
from icf_avs.encoders import taggers
from icf_avs.encoders.taggers import EfficientAT
from icf_avs.encoders.voc_segmenter import WITHOUT_SEGMENTER
from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.inference.word_prompts import find_tags, prompted_words
from icf_avs.media.audio_file import resample
from icf_avs.networks import evidence_prior
from icf_avs.networks.base import Network
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.output.text_summary import MAX_LINES, clock, tag_lines
from icf_avs.synthetic.catalog import load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_sampler import DEFAULT
from icf_avs.synthetic.scene_features import SceneSet, open_vocab_features
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.synthetic.tagger_cache import TaggerOutputs
from icf_avs.training.composed_data import image_spec, training_words
from icf_avs.training.recipes import natural
from icf_avs.training.trainer import build_model
from icf_avs.types import RATE, AudioFeatures, ClipSpec, NetworkFeatures, NetworkOutput
from research.word_scores import AUDIOS, word_scores

SIZE = 96


@pytest.fixture(scope="module")
def words(catalog):
    return training_words(load_open_vocab_stamps(catalog.root), "minilm", 0.6)


@pytest.fixture(scope="module")
def model(words):
    """An untrained model of recipe `natural`, made smaller."""
    recipe = natural()
    spec, small = replace(recipe.spec, image_size=SIZE), replace(recipe.model, dim=32, pixel_dim=16)
    return build_model(replace(recipe, spec=spec, model=small), words.words).eval()


def test_an_untrained_model_reads_sounds_as_their_words(model, words):
    """Audio and text projections start equal, so words never seen in training are read as well."""
    said = torch.zeros(1, len(words.words), model.audio.heard.dim)
    said[0, range(len(words.words)), range(len(words.words))] = 1
    audio = model.network.encode_audio(said, tags=True)
    read = model.network.implicit_text.vocabulary.similarity(audio.token)[0, :, : len(words.words)].argmax(1)
    assert (read == torch.arange(len(words.words))).float().mean() > 0.9


def test_the_prior_gets_heard_words_and_counterfactuals_their_reading(model, words, monkeypatch):
    """The prior uses the heard words even if the reading has drifted, say from "cat" to "animal"."""
    asked = []
    real = evidence_prior.top_words
    monkeypatch.setattr(evidence_prior, "top_words", lambda r, count: asked.append(r) or real(r, count))
    temperature = model.network.implicit_text.vocabulary.log_temperature
    monkeypatch.setattr(temperature, "data", torch.tensor(9.0))  # reads arbitrary words
    cat, violin, owl, person = (words.index[word] for word in ("cat", "violin", "owl", "person"))
    sound, others = torch.zeros(2, 2, model.audio.heard.dim), torch.zeros(2, 3, 2, model.audio.heard.dim)
    sound[0, 0, cat], sound[0, 0, violin], others[:, 1, :, owl], others[:, 2, :, person] = 0.6, 0.2, 0.15, 0.15
    others[:, 0, :, owl], others[:, 0, :, person] = 0.15, 0.3
    frames = torch.zeros(2, 2, SIZE, SIZE, 3, dtype=torch.uint8)
    visual, valid = model.network.encode_frames(frames), torch.ones(2, 2, dtype=torch.bool)
    audio = model.network.encode_audio(sound, tags=True)
    extra = model.network.encode_audio(others.flatten(0, 1), tags=True).map(lambda x: x.unflatten(0, (2, 3)))
    with torch.no_grad():
        model(visual, audio, valid)
        model.train()(visual, audio, valid, sounding=sound > 0, extra_audio=extra)
    model.eval()
    alone, trained = (reading.unflatten(1, (2, 2)) for reading in asked[::2])
    assert all(map(torch.equal, asked[::2], asked[1::2]))  # segmenter and classifier get the same
    assert alone[0, 0, 0, cat] == pytest.approx(0.75) and alone[0, 0, 0].sum() == pytest.approx(1)
    assert not alone[0, 0, 1].any()  # nothing is heard, so the query is zero
    factual, *counterfactuals, rest, foreign, first, second, third = trained
    assert torch.equal(factual, alone[0]) and torch.equal(foreign, factual.roll(1, 0))
    assert all(reading.max() < 0.01 and reading.min() > 0 for reading in (*counterfactuals, rest))
    assert torch.allclose(first[..., [owl, person]], torch.tensor([1 / 3, 2 / 3]))
    assert (second[..., owl] == 1).all()
    assert torch.allclose(third[..., person], torch.tensor(0.5))  # a faint sound has a weaker query


def barking(model, catalog):
    """Waveform [1,N] of five seconds of a dog."""
    bark = SoundBank(catalog, "train").loop_recording("dog", 5 * RATE, np.random.default_rng(0))
    return resample(torch.from_numpy(bark)[None], RATE, model.spec.sample_rate)


def test_a_checkpoint_loads_with_another_tagger(model, tmp_path, monkeypatch):
    """The tagger only yields tag probabilities, so the weights fit any tagger."""
    path = tmp_path / "natural.safetensors"
    save_checkpoint(model, path, {"name": "test"})
    assert path.stat().st_size < 4e6  # without the tagger and the visual encoder
    monkeypatch.setattr(taggers, "load_efficientat", lambda **_: EfficientAT(width=1.0))
    again = load_checkpoint(path, tagger="efficientat-mn10")
    assert again.config.audio == "efficientat-mn10" and again.audio.project.weight.equal(model.audio.project.weight)
    for checkpoint, tagger in ((path, "vggish"), (find_checkpoint("stamps")[0], "ast")):
        with pytest.raises(UserError, match=f"no tagger {tagger}; .* efficientat-mn10 or ast"):
            load_checkpoint(checkpoint, tagger=tagger)


def test_words_in_no_table_are_compared_by_their_embeddings(model, words):
    assert find_tags("freight train") is None
    chosen = {words.words[index] for index in prompted_words(model, "freight train; horses").nonzero()[:, 0].tolist()}
    assert {"train", "horse"} <= chosen and "dog" not in chosen


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("happiness", "'happiness': no such word is known; `icf words`"),
        ("gitar, dog, qwzx", "'gitar': .*; did you mean guitar.*[?] 'qwzx': no such word is known; `icf words`"),
        (["dog", "violin"], "words are .'dog', 'violin'.; give a string"),
        ("thunder, rain", "nothing to segment: thunder: no visible object .*; rain: no visible object"),
    ],
)
def test_unusable_words_give_a_helpful_error(model, text, told):
    with pytest.raises(UserError, match=told):
        prompted_words(model, text)


def test_a_predictor_hears_only_its_words(model, words, catalog):
    waves, frames = barking(model, catalog), torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    plain, dog = words.index["dog"], torch.zeros(len(words.words), dtype=torch.bool)
    dog[plain] = True
    predictors = [Predictor(model), Predictor(model, ~dog), Predictor(model, dog)]
    heard = [predictor.predict(frames, waves).heard[0] for predictor in predictors]
    assert int(heard[0].argmax()) == plain and not heard[1][plain] and heard[2].nonzero().tolist() == [[plain]]
    assert predictors[2].only_words == ("dog",) and predictors[0].only_words is None


def test_segment_prints_the_tags_and_missing_parts(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SegmentationModel, "missing", (WITHOUT_SEGMENTER,))
    monkeypatch.setattr(pretrained, "load", lambda checkpoint, device="auto": Segmenter(Predictor(model), "natural"))
    clip = make_clip(tmp_path / "clip.mp4", seconds=2, sound=tone(2))
    assert main(f"segment {clip} --out {tmp_path}/out --words dog".split()) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[0] == "0:00-0:02"
    assert f"made without {WITHOUT_SEGMENTER.part}: {WITHOUT_SEGMENTER.effect}" in printed


def frame(start, heard, area=0.0):
    return SimpleNamespace(start=start, end=start + 1, heard=heard, area=area)


def test_successive_frames_with_the_same_words_share_one_line():
    dog, both = (("dog", 0.4),), (("person", 0.9), ("dog", 0.7))
    frames = [frame(0, dog, 0.1), frame(1, (("dog", 0.6),), 0.2), frame(2, both, 0.1), frame(59, ()), frame(60, dog),
              frame(61, dog), frame(62, (), 0.2)]  # fmt: skip
    assert list(tag_lines(frames)) == [
        "0:00-0:02  dog 0.60", "0:02-0:03  person 0.90, dog 0.70", "0:59-1:00  nothing",
        "1:00-1:02  dog 0.40 (not segmented)", "1:02-1:03  a sound without a name",
    ]  # fmt: skip
    assert [clock(time) for time in (0.25, 1 / 30, 59.996, 119.99)] == ["0:00.25", "0:00.03", "1:00", "1:59.99"]
    lines = list(tag_lines([frame(second, dog if second % 2 else ()) for second in range(100)]))
    assert len(lines) == MAX_LINES + 1 and str(100 - MAX_LINES) in lines[-1]


def test_the_default_checkpoint_is_natural_whatever_is_cached(monkeypatch, tmp_path, capsys):
    """The default is `natural`; if its weights cannot be fetched, a one-line error, not another model."""
    assert find_checkpoint(None)[1] == find_checkpoint("natural")[1] == "natural"
    assert icf_avs.load().name == "natural"
    tip = "--checkpoint stamps"
    monkeypatch.delenv("ICF_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=tip):
        icf_avs.load()
    (tmp_path / "a.mp4").touch()
    for line in (f"segment {tmp_path}/a.mp4 --out x", "serve", "evaluate", "evaluate --robustness"):
        assert main(line.split()) == 2, line
        said = [part for part in capsys.readouterr().err.splitlines() if part.startswith("icf: error: ")]
        assert len(said) == 1 and tip in said[0], line
    with pytest.raises(UserError, match="--checkpoint natural"):
        icf_avs.load("stamps").predictor.with_words("dog")


class Oracle(Network):
    """Segment exactly what is heard."""

    feature_spec = None

    def __init__(self, scenes, words):
        super().__init__(torch.nn.Identity(), torch.nn.Identity(), train_visual=False)
        self.scenes, self.words = scenes, words

    def encode_audio(self, sound, tags=False):
        return AudioFeatures(sound)

    def decode(self, visual, audio, valid):
        rows = []
        numbers = visual.pyramid[0].flatten().int().tolist()
        for number, heard in zip(numbers, audio.token[:, 0, : len(self.words)], strict=True):
            word = self.words[int(heard.argmax())] if heard.any() else ""
            rows.append(40 * torch.from_numpy(self.scenes.masks(number, word)[0]).float() - 20)
        return NetworkOutput(torch.stack(rows)[:, None], NetworkFeatures((), audio.token))


@pytest.mark.full
def test_word_scores_of_a_model_that_segments_what_it_hears(catalog, words):
    spec, stamps = image_spec(replace(natural().spec, frames=1, image_size=SIZE)), load_open_vocab_stamps(catalog.root)
    scenes = open_vocab_features(stamps, SceneSet("heldout", 24, 0, DEFAULT, spec), 1)
    scenes.pyramid[:] = [np.arange(24, dtype=np.float32).reshape(-1, 1, 1, 1, 1)]  # of scene i: i
    kinds = tuple(sorted({kind for scene in scenes.scenes for each in scene.objects if (kind := each.class_name)}))
    outputs, nothing = np.zeros((len(kinds), 2, len(words.words)), np.float16), np.zeros((2, len(words.words)))
    for number, kind in enumerate(kinds):
        outputs[number, :, words.word_of_class[kind]] = 1
    sounds = TaggerOutputs(kinds, outputs, nothing, nothing, np.zeros((0, 2)), nothing[:0])
    config = ModelConfig(words.words, "oracle", **dict.fromkeys(("implicit_text", "counterfactual", "contrastive")))
    oracle = SegmentationModel(config, ClipSpec(), Oracle(scenes, words.words))
    found = word_scores(oracle, scenes, words, sounds, torch.zeros(len(words.words)))
    assert tuple(found) == AUDIOS and found["true"]["scenes"] > 8
    assert found["true"]["miou"] > 0.99 < found["word"]["miou"]
    for audio in AUDIOS[2:]:
        assert found[audio]["miou"] <= 0.99 and found[audio]["fpr"] <= 0.01
