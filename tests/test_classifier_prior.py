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
from icf_avs.networks.guided import SoundTokens
from icf_avs.networks.open_vocabulary import OpenVocabularyNetwork
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


SCORES = 2 * torch.randn(3, 1000, 4, 5, generator=torch.Generator().manual_seed(0))


def test_evidence_of_a_single_word(bridge: ClassSimilarity, evidence: ClassifierPrior) -> None:
    """Max over the classes that the word may mean of gate * max(z, 0); mean of z by similarity; log of their share."""
    reading = torch.eye(6)[:4, None].expand(4, 3, 6)  # four sounds, each one name; two free words beside the names
    found = evidence(reading, SCORES)
    vectors = embed_with_minilm(NAMES)
    index, gates, _ = bridge.top_classes(vectors, 128)
    maps = [(SCORES[:, at] * gate[:, None, None]).amax(1) for at, gate in zip(index, gates, strict=True)]
    torch.testing.assert_close(found[:, :, 0], torch.stack(maps).clamp(min=0), atol=0.02, rtol=0.01)
    share = torch.einsum("nrchw,rc->rnhw", SCORES.softmax(1)[:, index], gates)
    torch.testing.assert_close(found[:, :, 2], (share / 1e-3 + 1).log(), atol=0.02, rtol=0.01)
    similarity = ((bridge.similarity(vectors) - bridge.commonness) / 0.05).softmax(1)
    whole = torch.einsum("rc,nchw->rnhw", similarity, SCORES)  # all 1000 classes; `evidence` keeps the 128 nearest
    assert torch.corrcoef(torch.stack([found[:, :, 1].flatten(), whole.flatten()]))[0, 1] > 0.99


def test_evidence_of_two_words_and_of_none(evidence: ClassifierPrior) -> None:
    one, other, free = (torch.eye(6)[word].expand(1, 3, 6) for word in (0, 2, 4))
    first, second = evidence(one, SCORES), evidence(other, SCORES)
    for share, surely in ((0.5, 1.0), (0.25, 1 / 3)):  # equal shares count fully, a smaller one in proportion
        both = evidence((1 - share) * one + share * other, SCORES)
        strongest = torch.maximum(first, surely * second)
        for kind in (0, 2):
            torch.testing.assert_close(both[:, :, kind], strongest[:, :, kind], atol=1e-3, rtol=1e-3)
        agreed = (1 - share) * first[:, :, 1] + share * second[:, :, 1]
        torch.testing.assert_close(both[:, :, 1], agreed, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(evidence(0.25 * one, SCORES), 0.25 * first, atol=1e-3, rtol=1e-3)
    assert not evidence(free, SCORES).any()


@pytest.fixture
def model(bridge: ClassSimilarity) -> SegmentationModel:
    torch.manual_seed(0)
    parts = {"implicit_text": ImplicitTextConfig(free_words=3), "evidence": EvidenceConfig(3, 32)}
    config = ModelConfig(NAMES, dim=32, pixel_dim=16, **parts)
    names = embed_with_minilm(NAMES)
    audio, visual = LogMelEncoder(32), OpenVocabEncoder(load_efficientnet_lite0(), None)
    model = SegmentationModel(config, ClipSpec(image_size=64), OpenVocabularyNetwork(config, visual, audio, names))
    model.network.prior.classifier.init_from_names(bridge, names)
    model.network.prior.segmenter.init_from_names(*voc_similarity(names))
    return model


def logits_of(model: SegmentationModel, share: float, scene_audio: float = 1.0) -> torch.Tensor:
    """Logits of one frame for each name; share: of hidden names; scene_audio: scales the decoder's sound embedding."""
    network, count = model.network, len(NAMES)
    network.name_dropout.share = share
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 1, 64, 64, 3), generator=generator, dtype=torch.uint8)
    visual = network.encode_frames(picture).map(lambda x: x.expand(count, *x.shape[1:]))
    # The reading of a token does not depend on its norm, so only the input of the decoder changes.
    sound = scene_audio * network.implicit_text.vocabulary.words()[:count, None]
    pixels = network.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
    sounds = SoundTokens(sound[None], torch.zeros(1, count, 1, 6, sound.shape[-1]), [None])
    return network.decode_sounds(pixels, sounds, torch.ones(count, 1).bool(), visual).logits[0]


@torch.no_grad()
def test_without_names_logits_depend_only_on_evidence_and_inference_takes_the_maximum(model: SegmentationModel) -> None:
    without, named = logits_of(model.train(), 1.0), logits_of(model, 0.0)
    torch.testing.assert_close(without, logits_of(model, 1.0, scene_audio=3.0), atol=1e-4, rtol=1e-4)
    assert (without[0] - without[1]).abs().max() > 1e-3  # another word, other evidence
    assert (named - logits_of(model, 0.0, scene_audio=3.0)).abs().max() > 1e-2
    torch.testing.assert_close(logits_of(model.eval(), 0.0), torch.maximum(named, without), atol=1e-4, rtol=1e-4)
    assert (named > without + 1e-3).any() and (without > named + 1e-3).any()
    model.network.prior.present.bias.fill_(-50.0)  # certain that the source is off screen
    assert logits_of(model, 0.0).max() < -30
