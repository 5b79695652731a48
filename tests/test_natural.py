"""Model `natural`: audio as tag probabilities, word prompts that restrict them, and its scores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from clip_maker import make_clip, tone
from tagger_weights import published_weights

import icf_avs
from icf_avs.__main__ import main
from icf_avs.checkpoint.serialization import load_checkpoint, save_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.config import ModelConfig
from icf_avs.encoders import tagger_encoder
from icf_avs.encoders.efficientat import EfficientAT
from icf_avs.encoders.tagger_encoder import audio_words
from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.guided_filter import guided_filter
from icf_avs.inference.multiscale import merge_scales
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.inference.word_prompts import find_tags, prompted_words
from icf_avs.media.audio_file import resample
from icf_avs.media.images import resize_frames
from icf_avs.networks.base import Network
from icf_avs.networks.open_vocabulary_parts.segmenter_prior import fuse_segmenter
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
from research import natural as study
from research.word_scores import AUDIOS, word_scores

SIZE = 96


@pytest.fixture(scope="module", autouse=True)
def weights():
    """The published tagger weights, with ICF_WEIGHTS_DIR set to their folder."""
    path = published_weights()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICF_WEIGHTS_DIR", str(path.parent))
        yield path


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
    prior = model.network.prior.classifier
    real = prior.forward
    monkeypatch.setattr(prior, "forward", lambda r, scores: asked.append(r) or real(r, scores))
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
    alone, trained = (reading.unflatten(1, (2, 2)) for reading in asked)
    assert alone[0, 0, 0, cat] == pytest.approx(0.75) and alone[0, 0, 0].sum() == pytest.approx(1)
    assert not alone[0, 0, 1].any()  # nothing is heard, so the query is zero
    factual, *counterfactuals, rest, foreign, first, second, third = trained
    assert torch.equal(factual, alone[0]) and torch.equal(foreign, factual.roll(1, 0))
    assert all(reading.max() < 0.01 and reading.min() > 0 for reading in (*counterfactuals, rest))
    assert torch.allclose(first[..., [owl, person]], torch.tensor([1 / 3, 2 / 3]))
    assert (second[..., owl] == 1).all()
    assert torch.allclose(third[..., person], torch.tensor(0.5))  # a faint sound has a weaker query


def test_a_frame_is_segmented_at_two_scales(model, catalog):
    """At full size and at 64 pixels, the multiple of the largest stride nearest to half of it."""
    frames, valid = torch.randint(0, 255, (2, SIZE, SIZE, 3), dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool)
    waves = barking(model, catalog).repeat(2, 1)
    smaller = resize_frames(frames, 64)
    predictor, network, masks = Predictor(model), model.network, []
    with torch.inference_mode():
        audio = network.encode_audio(waves[None])
        whole = network.encode_frames(frames[None])
        small = network.encode_frames(smaller[None], whole.object_probs)  # the VOC segmenter runs once
        for visual in (whole, small):
            output = network(visual, audio, valid)
            with_objects = fuse_segmenter(output.logits[0], output.segmenter[0])
            masks.append(guided_filter(with_objects, smaller)[None])
        halfway = predictor.segment(predictor.encode(smaller[None], whole), audio, valid)
    both = merge_scales(*masks)
    torch.testing.assert_close(predictor.predict(frames, waves).logits, both[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(halfway.logits, both, atol=1e-3, rtol=1e-3)  # precomputed features


def test_silent_frames_have_empty_masks(model, catalog, monkeypatch):
    """Silent frames are not encoded; the results of the others do not depend on them."""
    # One at a time: rounding in the tagger and in the encoders depends on the batch size.
    tag, visual = model.audio.tag, model.network.visual
    encode, segment = visual.network.forward, visual.segmenter.forward
    monkeypatch.setattr(model.audio, "tag", lambda clips: torch.cat([*map(tag, clips.split(1, 1))], 1))
    monkeypatch.setattr(visual.segmenter, "forward", lambda frames: torch.cat([*map(segment, frames.split(1))]))
    monkeypatch.setattr(
        visual.network, "forward", lambda frames: [*map(torch.cat, zip(*map(encode, frames.split(1)), strict=True))]
    )
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (3, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    bark = barking(model, catalog)
    waves = torch.cat([bark, torch.zeros_like(bark), bark])
    predictor = Predictor(model)
    whole, loud = predictor.predict(frames, waves), predictor.predict(frames[[0, 2]], waves[[0, 2]])
    assert whole.heard.any(1).tolist() == [True, False, True]
    torch.testing.assert_close(whole.logits[[0, 2]], loud.logits)
    each = predictor.predict_each(frames, [waves, torch.zeros_like(waves)])  # all frames are encoded
    torch.testing.assert_close(each[0].logits, whole.logits)
    quiet = predictor.predict(frames, torch.zeros_like(waves))
    assert torch.equal(each[1].logits, quiet.logits)
    assert quiet.logits.shape == whole.logits.shape
    assert torch.equal(quiet.logits, quiet.logits[:1, :1, :1].expand_as(quiet.logits)) and quiet.logits.max() < -20
    assert torch.equal(whole.logits[1], quiet.logits[1])


def barking(model, catalog):
    """Waveform [1,N] of five seconds of a dog."""
    bark = SoundBank(catalog, "train").loop_recording("dog", 5 * RATE, np.random.default_rng(0))
    return resample(torch.from_numpy(bark)[None], RATE, model.spec.sample_rate)


def test_a_saved_and_loaded_model_predicts_the_same(model, catalog, tmp_path):
    path = tmp_path / "natural.safetensors"
    save_checkpoint(model, path, {"name": "test"})
    assert path.stat().st_size < 4e6  # without the tagger and the visual encoder
    again = load_checkpoint(path)
    frames = torch.randint(0, 255, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    waves = barking(model, catalog).repeat(2, 1)
    one, other = Predictor(model).predict(frames, waves), Predictor(again).predict(frames, waves)
    assert torch.equal(one.logits, other.logits) and torch.equal(one.heard, other.heard)
    assert one.words == model.classes and one.heard.shape == (2, len(model.classes))


def test_a_checkpoint_loads_with_another_tagger(model, tmp_path, monkeypatch):
    """The tagger only yields tag probabilities, so the weights fit any tagger."""
    path = tmp_path / "natural.safetensors"
    save_checkpoint(model, path, {"name": "test"})
    monkeypatch.setattr(tagger_encoder, "load_efficientat", lambda *_, name: EfficientAT(32_000, True, 1.0))
    again = load_checkpoint(path, tagger="efficientat-mn10")
    assert again.config.audio == "efficientat-mn10" and again.audio.project.weight.equal(model.audio.project.weight)
    for checkpoint, tagger in ((path, "vggish"), (find_checkpoint("stamps")[0], "ast")):
        with pytest.raises(UserError, match=f"no tagger {tagger}; .* efficientat-mn10 or ast"):
            load_checkpoint(checkpoint, tagger=tagger)


def test_words_select_the_tags_that_may_be_heard(model, words):
    def chosen(text):
        return [words.words[index] for index in prompted_words(model, text).nonzero()[:, 0].tolist()]

    assert set(chosen("Dog ; horses, thunder")) == {"dog", "horse"}
    assert find_tags("freight train") is None  # so MiniLM finds the tags
    assert "train" in chosen("freight train") and "dog" not in chosen("freight train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names nothing"),
        (" , ", "names nothing"),
        ("qwzx vrrk", "no such word is known; `icf words`"),
        ("gitar", "did you mean guitar"),
        ("happiness", "'happiness': no such word is known; `icf words`"),
        ("gitar, dog, qwzx", "'gitar': .*; did you mean guitar.*[?] 'qwzx': no such word is known; `icf words`"),
        (["dog", "violin"], "words are .'dog', 'violin'.; give a string"),
        ("thunder, rain", "nothing to segment: thunder: no visible object .*; rain: no visible object"),
    ],
)
def test_unusable_words_give_a_helpful_error(model, text, told):
    with pytest.raises(UserError, match=told):
        prompted_words(model, text)


def test_predictors_in_threads_keep_their_own_words(model, words, catalog):
    waves, frames = barking(model, catalog), torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    plain, dog, none = words.index["dog"], *(torch.zeros(len(words.words), dtype=torch.bool) for _ in range(2))
    dog[plain] = True
    predictors = [Predictor(model), Predictor(model, ~dog), Predictor(model, dog), Predictor(model, none)]
    alone = [predictor.predict(frames, waves) for predictor in predictors]
    assert int(alone[0].heard.argmax()) == plain and not alone[1].heard[0, plain] and not alone[3].heard.any()
    assert alone[2].heard.nonzero().tolist() == [[0, plain]]
    assert predictors[2].only_words == ("dog",) and predictors[0].only_words is None
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda predictor: predictor.predict(frames, waves), predictors * 4))
    for found, expected in zip(together, alone * 4, strict=True):
        assert torch.equal(found.heard, expected.heard) and torch.equal(found.logits, expected.logits)


def test_a_model_without_tagger_refuses_words():
    with pytest.raises(UserError, match="--checkpoint natural"):
        icf_avs.load("stamps").predictor.with_words("dog")


def test_segment_prints_the_tags(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "load", lambda checkpoint, device="auto": Segmenter(Predictor(model), checkpoint))
    clip = make_clip(tmp_path / "clip.mp4", seconds=2, sound=tone(2))
    assert main(f"segment {clip} --out {tmp_path}/out --checkpoint natural --words dog".split()) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and printed[1].split()[0] == "0:00-0:02"


class _Frame:
    def __init__(self, start, heard, area=0.0):
        self.start, self.end, self.heard, self.area = start, start + 1, heard, area


def test_successive_frames_with_the_same_words_share_one_line():
    dog, both = (("dog", 0.4),), (("person", 0.9), ("dog", 0.7))
    frames = [_Frame(0, dog, 0.1), _Frame(1, (("dog", 0.6),), 0.2), _Frame(2, both, 0.1), _Frame(59, ()),
              _Frame(60, dog), _Frame(61, dog), _Frame(62, dog, 0.1)]  # fmt: skip
    assert list(tag_lines(frames)) == [
        "0:00-0:02  dog 0.60",
        "0:02-0:03  person 0.90, dog 0.70",
        "0:59-1:00  nothing",
        "1:00-1:02  dog 0.40 (not segmented)",
        "1:02-1:03  dog 0.40",
    ]
    fine = [_Frame(0, dog), _Frame(59.996, both)]  # as with a high mask rate
    assert [line.split()[0] for line in tag_lines(fine)] == ["0:00-0:01", "1:00-1:01"]
    assert [clock(time) for time in (0.25, 1 / 30, 119.99)] == ["0:00.25", "0:00.03", "1:59.99"]
    unnamed = [_Frame(0, ()), _Frame(1, (), 0.2), _Frame(2, dog, 0.2)]  # a model without class names
    assert [line[11:] for line in tag_lines(unnamed)] == ["nothing", "a sound without a name", "dog 0.40"]
    many = [_Frame(second, dog if second % 2 else ()) for second in range(100)]
    lines = list(tag_lines(many))
    assert len(lines) == MAX_LINES + 1 and str(100 - MAX_LINES) in lines[-1]


def test_the_default_checkpoint_is_natural_whatever_is_cached(weights, monkeypatch, tmp_path, capsys):
    """The default is `natural`; if its weights cannot be fetched, a one-line error, not another model."""
    assert find_checkpoint(None)[1] == find_checkpoint("natural")[1] == "natural"
    assert icf_avs.load().name == "natural"
    tip = "--checkpoint stamps"
    monkeypatch.delenv("ICF_WEIGHTS_DIR")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=tip):
        icf_avs.load()
    (tmp_path / "m.csv").write_text("video\na.mp4\n")
    (tmp_path / "a.mp4").touch()
    for line in (
        ["segment", str(tmp_path / "a.mp4"), "--out", "x"],
        ["segment", "--manifest", str(tmp_path / "m.csv"), "--out", "x"],
        ["serve"], ["evaluate"], ["evaluate", "--robustness"],
    ):  # fmt: skip
        assert main(line) == 2, line
        said = [part for part in capsys.readouterr().err.splitlines() if part.startswith("icf: error: ")]
        assert len(said) == 1 and tip in said[0], line
    assert icf_avs.load("stamps").name == "stamps"


@pytest.fixture(scope="module")
def scenes(catalog):
    spec = image_spec(replace(natural().spec, frames=1, image_size=SIZE))
    return open_vocab_features(load_open_vocab_stamps(catalog.root), SceneSet("heldout", 24, 0, DEFAULT, spec), 1)


class Oracle(Network):
    """Segment exactly what is heard; if `deaf`, segment what the first query asks for, whatever the audio."""

    feature_spec = None

    def __init__(self, scenes, words, deaf):
        super().__init__(torch.nn.Identity(), torch.nn.Identity(), train_visual=False)
        self.scenes, self.words, self.deaf, self.asked = scenes, words, deaf, {}

    def encode_audio(self, sound, tags=False):
        return AudioFeatures(sound)

    def decode(self, visual, audio, valid):
        rows = []
        for level, heard in zip(visual.pyramid[0][:, 0], audio.token[:, 0, : len(self.words.words)], strict=True):
            number = next(
                i for i in range(len(self.scenes.scenes))
                if np.array_equal(self.scenes.pyramid[0][i, 0].transpose(2, 0, 1).astype(np.float32), level.numpy())
            )  # fmt: skip
            word = self.words.words[int(heard.argmax())] if heard.any() else ""
            word = self.asked.setdefault(number, word) if self.deaf else word
            rows.append(40 * torch.from_numpy(self.scenes.masks(number, word)[0]).float() - 20)
        return NetworkOutput(torch.stack(rows)[:, None], NetworkFeatures((), audio.token))


@pytest.mark.parametrize("deaf", [False, True])
def test_word_scores_of_a_listening_and_of_a_deaf_model(scenes, words, deaf):
    kinds = tuple(sorted({kind for scene in scenes.scenes for each in scene.objects if (kind := each.class_name)}))
    size = len(words.words)
    outputs = np.zeros((len(kinds), 2, size), np.float16)
    for number, kind in enumerate(kinds):
        outputs[number, :, words.word_of_class[kind]] = 1
    nothing = np.zeros((2, size), np.float16)
    sounds = TaggerOutputs(kinds, outputs, nothing, nothing, np.zeros((0, 2)), nothing[:0])
    config = ModelConfig(words.words, "oracle", **dict.fromkeys(("implicit_text", "counterfactual", "contrastive")))
    oracle = SegmentationModel(config, ClipSpec(), Oracle(scenes, words, deaf))
    found = word_scores(oracle, scenes, words, sounds, torch.zeros(size))
    assert tuple(found) == AUDIOS and found["true"]["scenes"] > 8
    assert found["true"]["miou"] > 0.99 < found["word"]["miou"]
    for audio in AUDIOS[2:]:
        assert (found[audio]["miou"] > 0.99) == deaf and (found[audio]["fpr"] > 0.01) == deaf


def test_rows_of_the_study():
    rows = {row: study.row_config(row, 1, 20) for row in study.ROWS}
    assert all(config.seed == 1 and config.words.held_out for config in rows.values())
    assert not natural().words.held_out
    long = dict.fromkeys(("open", "open-baseline", "open-mit"), natural().steps)
    assert {row: config.steps for row, config in rows.items()} == dict.fromkeys(rows, 20) | long
    assert rows["all"].model == rows["open"].model == natural().model
    assert all(rows[row].model == rows[f"open-{row}"].model for row in ("baseline", "mit"))
    assert rows["mit"].model.counterfactual is None is rows["mit"].model.contrastive
    assert rows["baseline"].model.implicit_text is None is rows["baseline"].model.evidence
    baseline = build_model(replace(rows["baseline"], model=replace(rows["baseline"].model, dim=32)), audio_words())
    assert baseline.network.implicit_text is None and baseline.audio.names.shape[1] == 384


def test_the_table_keeps_rows_of_other_runs(tmp_path):
    line = dict.fromkeys(study.COLUMNS, "1") | {"row": "all", "seed": "0"}

    def add(*lines):
        study.RUNS.replace(tmp_path / "t.csv", study.run_of(lines[0]), list(lines))

    add(line, line)
    add(line | {"row": "shipped"})
    add(line | {"miou": "0.5"})
    kept = study.RUNS.read(tmp_path / "t.csv")
    assert [(row["row"], row["miou"]) for row in kept] == [("shipped", "1"), ("all", "0.5")]
    add(line | {"test_set": "known-val", "miou": "0.7"})  # kept beside rows of the test set
    assert [row["miou"] for row in study.RUNS.read(tmp_path / "t.csv")] == ["1", "0.5", "0.7"]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a table of"):
        study.RUNS.read(tmp_path / "other.csv")
