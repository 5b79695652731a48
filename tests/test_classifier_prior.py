"""Classifier evidence for the words of a reading, against the class maps of single words."""

from __future__ import annotations

import pytest
import torch

from icf_avs.config import EvidenceConfig, ImplicitTextConfig, ModelConfig
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.logmel_cnn import LogMelEncoder
from icf_avs.encoders.open_vocab_encoder import ClassSimilarity, OpenVocabEncoder
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import voc_similarity
from icf_avs.inference.guided_filter import guided_filter
from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.networks.guided import GuidedNetwork, SoundTokens
from icf_avs.networks.open_vocabulary import ConditioningDropout, OpenVocabularyNetwork
from icf_avs.networks.open_vocabulary_parts.classifier_prior import ClassifierPrior
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec

NAMES = ("dog", "violin", "train", "owl")


@pytest.fixture(scope="module")
def bridge() -> ClassSimilarity:
    return ClassSimilarity()


@pytest.fixture(scope="module")
def evidence(bridge: ClassSimilarity) -> ClassifierPrior:
    part = ClassifierPrior(len(NAMES), words=2, classes=128)
    part.init_from_names(bridge, embed_with_minilm(NAMES))
    return part


@pytest.fixture(scope="module")
def scores() -> torch.Tensor:
    return 2 * torch.randn(3, 1000, 4, 5, generator=torch.Generator().manual_seed(0))


def relevance(bridge: ClassSimilarity, words: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """[R,N,h,w]: max over the classes that a word may mean of gate * max(z, 0)."""
    index, gates, _ = bridge.top_classes(words, 128)
    maps = [(scores[:, at] * gate[:, None, None]).amax(1) for at, gate in zip(index, gates, strict=True)]
    return torch.stack(maps).clamp(min=0)


def agreement(bridge: ClassSimilarity, words: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """[R,N,h,w]: mean of z over all classes, weighted by their similarity to a word."""
    shares = ((bridge.similarity(words) - bridge.commonness) / 0.05).softmax(1)
    return torch.einsum("rc,nchw->rnhw", shares, scores)


def test_evidence_of_a_single_word(bridge: ClassSimilarity, evidence: ClassifierPrior, scores: torch.Tensor) -> None:
    reading = torch.eye(6)[:4, None].expand(4, 3, 6)  # four sounds, each one name; two free words beside the names
    found = evidence(reading, scores)
    assert found.shape == (4, 3, 3, 4, 5)
    vectors = embed_with_minilm(NAMES)
    torch.testing.assert_close(found[:, :, 0], relevance(bridge, vectors, scores), atol=0.02, rtol=0.01)
    index, gates, _ = bridge.top_classes(vectors, 128)
    share = torch.einsum("nrchw,rc->rnhw", scores.softmax(1)[:, index], gates)
    torch.testing.assert_close(found[:, :, 2], (share / 1e-3 + 1).log(), atol=0.02, rtol=0.01)
    whole = agreement(bridge, vectors, scores)  # of all 1000 classes, where `evidence` keeps the 128 nearest
    assert torch.corrcoef(torch.stack([found[:, :, 1].flatten(), whole.flatten()]))[0, 1] > 0.99


def test_evidence_of_two_words(evidence: ClassifierPrior, scores: torch.Tensor) -> None:
    one, other = torch.eye(6)[0].expand(1, 3, 6), torch.eye(6)[2].expand(1, 3, 6)
    first, second = evidence(one, scores), evidence(other, scores)
    for share, surely in ((0.5, 1.0), (0.25, 1 / 3)):  # equal shares count fully, a smaller one in proportion
        both = evidence((1 - share) * one + share * other, scores)
        strongest = torch.maximum(first, surely * second)
        for kind in (0, 2):
            torch.testing.assert_close(both[:, :, kind], strongest[:, :, kind], atol=1e-3, rtol=1e-3)
        agreed = (1 - share) * first[:, :, 1] + share * second[:, :, 1]
        torch.testing.assert_close(both[:, :, 1], agreed, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(evidence(0.25 * one, scores), 0.25 * first, atol=1e-3, rtol=1e-3)


def test_a_reading_without_names_has_no_evidence(evidence: ClassifierPrior, scores: torch.Tensor) -> None:
    silent = torch.eye(6)[4].expand(1, 3, 6)  # a free word
    assert not evidence(silent, scores).any()


def _model(bridge: ClassSimilarity) -> SegmentationModel:
    torch.manual_seed(0)
    config = ModelConfig(
        NAMES, dim=32, pixel_dim=16, implicit_text=ImplicitTextConfig(free_words=3), evidence=EvidenceConfig(3, 32)
    )
    names = embed_with_minilm(NAMES)
    audio, visual = LogMelEncoder(32), OpenVocabEncoder(load_efficientnet_lite0(), None)
    model = SegmentationModel(config, ClipSpec(image_size=64), OpenVocabularyNetwork(config, visual, audio, names))
    model.network.prior.classifier.init_from_names(bridge, names)
    model.network.prior.segmenter.init_from_names(*voc_similarity(names))
    return model


def test_a_model_uses_its_evidence_and_trains(bridge: ClassSimilarity) -> None:
    model = _model(bridge)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 1, 64, 64, 3), generator=generator, dtype=torch.uint8)
    waves, valid = 0.1 * torch.randn(2, 1, 15_600, generator=generator), torch.ones(2, 1, dtype=torch.bool)
    audio = GuidedNetwork.encode_audio(model.network, waves)  # without tags: the encoder is log-mel
    visual = model.network.encode_frames(frames)
    sounding = torch.eye(4, dtype=torch.bool)[:2, None]
    output = model(visual, audio, valid, sounding=sounding)
    output.logits.mean().backward()
    assert model.network.prior.weigh.grad.abs().sum() > 0 and model.network.prior.present.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        before = model(visual, audio, valid)
        after = model(visual._replace(class_scores=visual.class_scores + 3), audio, valid)
        finer = postprocess([ScaleMasks(before.logits, frames, before.segmenter)], model)
        model.network.prior.present.bias.fill_(-50.0)  # certain that the source is off screen
        absent = model(visual, audio, valid)
        things = model(visual._replace(object_probs=visual.object_probs + 0.5), audio, valid)
    assert not torch.allclose(before.prior, after.prior) and not torch.allclose(before.prior, things.prior)
    followed = guided_filter(before.logits[:, 0], frames[:, 0])  # calibration constants are unset
    torch.testing.assert_close(finer[:, 0], followed, atol=1e-4, rtol=1e-4)
    assert absent.logits.max() < -30


def test_evidence_needs_words() -> None:
    with pytest.raises(ValueError, match="needs implicit_text"):
        ModelConfig(NAMES, implicit_text=None, evidence=EvidenceConfig())


def test_name_dropout_replaces_hidden_names():
    part = ConditioningDropout(8, tokens=2, share=0.5)
    sound, text = torch.randn(3, 4, 8), torch.randn(3, 4, 2, 8)
    named = torch.tensor([True, False, True, False])
    shown, read = part.drop_names(sound, text, named)
    assert torch.equal(shown[:, named], sound[:, named]) and torch.equal(read[:, named], text[:, named])
    assert torch.equal(shown[:, ~named], part.sound.expand(3, 2, 8))
    assert torch.equal(read[:, ~named], part.text.expand(3, 2, 2, 8))


def test_name_dropout_is_drawn_per_clip():
    torch.manual_seed(0)
    kept = ConditioningDropout(8, tokens=2, share=0.25).draw(4000, 5).unflatten(0, (4000, 5))
    assert (kept == kept[:, :1]).all()
    assert 0.72 < kept[:, 0].float().mean() < 0.78


def logits_of(model, names, scene_audio):
    """Logits of one frame for words `names` [B]; scene_audio: scales the sound embedding given to the decoder."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 1, 64, 64, 3), generator=generator, dtype=torch.uint8)
    network = model.network
    visual = network.encode_frames(picture).map(lambda x: x.expand(len(names), *x.shape[1:]))
    # The reading of a token does not depend on its norm, so only the input of the decoder changes.
    sound = scene_audio * model.network.implicit_text.vocabulary.words()[list(names)][:, None]
    pixels = network.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
    sounds = SoundTokens(sound[None], torch.zeros(1, len(names), 1, 6, sound.shape[-1]), [None])
    found = network.decode_sounds(pixels, sounds, torch.ones(len(names), 1).bool(), visual)
    return found.logits[0]


def test_without_names_logits_depend_only_on_evidence(bridge):
    model = _model(bridge)
    model.train()
    with torch.no_grad():
        model.network.name_dropout.share = 1.0
        one, longer = logits_of(model, range(4), 1.0), logits_of(model, range(4), 3.0)
        torch.testing.assert_close(one, longer, atol=1e-4, rtol=1e-4)
        assert (one[0] - one[1]).abs().max() > 1e-3  # another word, other evidence
        model.network.name_dropout.share = 0.0
        assert (logits_of(model, range(4), 1.0) - logits_of(model, range(4), 3.0)).abs().max() > 1e-2


def test_inference_takes_the_maximum_with_and_without_names(bridge):
    model = _model(bridge)
    with torch.no_grad():
        model.train()
        model.network.name_dropout.share = 1.0
        without = logits_of(model, range(len(NAMES)), 1.0)
        model.network.name_dropout.share = 0.0
        named = logits_of(model, range(len(NAMES)), 1.0)
        model.eval()
        both = logits_of(model, range(len(NAMES)), 1.0)
        torch.testing.assert_close(both, torch.maximum(named, without), atol=1e-4, rtol=1e-4)
        assert (named > without + 1e-3).any() and (without > named + 1e-3).any()
