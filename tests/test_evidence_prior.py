"""Words against the classes of classifier and segmenter, their evidence, and masks without the name of a sound."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from icf_avs.config import EvidenceConfig, ImplicitTextConfig, ModelConfig
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.logmel_cnn import LogMelEncoder
from icf_avs.encoders.open_vocab_encoder import (
    OpenVocabEncoder,
    audioset_names,
    class_similarity,
    imagenet_names,
    related_classes,
)
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import VOC_CLASSES, voc_names, voc_similarity
from icf_avs.networks.evidence_prior import EvidencePrior, SegmenterPrior, fuse_segmenter, top_words
from icf_avs.networks.guided import SoundTokens
from icf_avs.networks.open_vocabulary import OpenVocabularyNetwork
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec

NAMES = ("dog", "violin", "train", "owl")


Evidence = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """From a reading of the names to the classifier's maps for SCORES."""
    prior = EvidencePrior(8, len(NAMES), words=2, classes=128)
    with torch.no_grad():
        prior.init_from_names(embed_with_minilm(NAMES))
    return lambda reading: prior.classifier(top_words(reading, prior.words), SCORES)


SCORES = 2 * torch.randn(3, 1000, 4, 5, generator=torch.Generator().manual_seed(0))


def test_similarity_of_words_and_imagenet_classes() -> None:
    words = embed_with_minilm(("zebra", "dog", "hen"))
    nearness, first = class_similarity(words), [names.split(",")[0] for names in imagenet_names()]
    assert nearness[0].argmax() == first.index("zebra") and nearness[0].max() > 0.99
    assert {int(i) for i in nearness[1].topk(118).indices} == set(range(151, 269))  # "hotdog" is further than any dog
    # By hand: of several names of a class, the nearest counts.
    names = tuple(name.strip() for name in imagenet_names()[7].split(","))
    assert nearness[2, 7] >= (words[2] @ embed_with_minilm(names).T).max() - 1e-5


def test_similarity_of_words_and_voc_classes() -> None:
    words = ("dog", "owl", "male person", "violin", "vehicle", "tiger", "train")
    fit, kin = (dict(zip(words, table, strict=True)) for table in voc_similarity(embed_with_minilm(words)))

    def of(table: torch.Tensor, least: float) -> set[str]:
        return {names[0] for (names, _), value in zip(voc_names(), table.tolist(), strict=True) if value > least}

    assert of(fit["dog"], 0.5) == {"dog"} and of(fit["owl"], 0.5) == {"bird"} and of(fit["train"], 0.5) == {"train"}
    assert of(fit["male person"], 0.5) == {"person"} and of(fit["violin"], 0) == of(fit["tiger"], 0.05) == set()
    assert of(fit["vehicle"], 0.99) == {"airplane", "bicycle", "boat", "bus", "car", "motorcycle", "train"}
    assert of(kin["dog"], 0.1) == {"dog"} and {"cat", "dog"} <= of(kin["tiger"], 0.2)
    assert "person" not in of(kin["tiger"], 0.05)


def test_evidence_of_a_single_word(evidence: Evidence) -> None:
    """Max over the classes that the word may mean of gate * max(z, 0); mean of z by similarity; log of their share."""
    found = evidence(torch.eye(4)[:, None].expand(4, 3, 4))  # four sounds, each one name
    vectors = embed_with_minilm(NAMES)
    index, gates, _ = related_classes(vectors, 128)
    maps = [(SCORES[:, at] * gate[:, None, None]).amax(1) for at, gate in zip(index, gates, strict=True)]
    torch.testing.assert_close(found[:, :, 0], torch.stack(maps).clamp(min=0), atol=0.02, rtol=0.01)
    share = torch.einsum("nrchw,rc->rnhw", SCORES.softmax(1)[:, index], gates)
    torch.testing.assert_close(found[:, :, 2], (share / 1e-3 + 1).log(), atol=0.02, rtol=0.01)
    commonness = class_similarity(embed_with_minilm(audioset_names())).mean(0)
    similarity = ((class_similarity(vectors) - commonness) / 0.05).softmax(1)
    whole = torch.einsum("rc,nchw->rnhw", similarity, SCORES)  # all 1000 classes; `evidence` keeps the 128 nearest
    assert torch.corrcoef(torch.stack([found[:, :, 1].flatten(), whole.flatten()]))[0, 1] > 0.99


def test_evidence_of_two_words_and_of_none(evidence: Evidence) -> None:
    one, other = (torch.eye(4)[word].expand(1, 3, 4) for word in (0, 2))
    first, second = evidence(one), evidence(other)
    for share, surely in ((0.5, 1.0), (0.25, 1 / 3)):  # equal shares count fully, a smaller one in proportion
        both = evidence((1 - share) * one + share * other)
        strongest = torch.maximum(first, surely * second)
        for kind in (0, 2):
            torch.testing.assert_close(both[:, :, kind], strongest[:, :, kind], atol=1e-3, rtol=1e-3)
        agreed = (1 - share) * first[:, :, 1] + share * second[:, :, 1]
        torch.testing.assert_close(both[:, :, 1], agreed, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(evidence(0.25 * one), 0.25 * first, atol=1e-3, rtol=1e-3)
    assert not evidence(0 * one).any()


def test_segmenter_prior_by_hand() -> None:
    """Three words: the first fits class 0 and is related to class 1; the others match no class."""
    prior = SegmenterPrior(3)
    prior.fit[0, 0] = prior.kin[0, 0] = prior.kin[0, 1] = 1
    shares = torch.zeros(1, VOC_CLASSES, 1, 3)
    shares[0, 0, 0, 0] = shares[0, 1, 0, 1] = shares[0, 2, 0, 2] = 0.5

    def evidence(*reading: float) -> list[torch.Tensor]:
        return [of[0, 0, :, 0] for of in prior(top_words(torch.tensor([[reading]]), 2), shares)]

    log = torch.log1p(torch.tensor(127.5))
    maps, found = evidence(1.0, 0.0, 0.0)
    torch.testing.assert_close(maps, torch.stack([log * torch.tensor([1.0, 0, 0]), log * torch.tensor([0, 0, 1.0])]))
    half = math.log(0.5)  # penalty of another class with probability 0.5: three times that if the word names a class
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0], [0, 0, 3 * half]]))
    maps, found = evidence(0.0, 0.0, 1.0)
    torch.testing.assert_close(maps, torch.stack([torch.zeros(3), log.expand(3)]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0], [half, half, half]]))
    less = 1.8 * math.log(0.7)
    torch.testing.assert_close(evidence(0.4, 0.0, 0.0)[1], torch.tensor([[0.2, 0, 0], [less, less, 1.8 * half]]))
    shares[0, 3] = 1
    assert all(of.isfinite().all() for of in evidence(1.0, 1.0, 1.0))


def test_fuse_segmenter_by_hand() -> None:
    """Four positions: the class asked for, another class, uncertain, nothing."""
    meant, against = torch.tensor([[0.9, 0.0, 0.5, 0.0], [0.0, -2.5, -0.125, 0.0]]).view(2, 1, 1, 4)
    found = torch.stack([meant, against], dim=1)
    settled = fuse_segmenter(torch.tensor([-2.0, 1.0, 0.25, -9.0]).view(1, 1, 4), found)[0, 0]
    torch.testing.assert_close(settled, torch.tensor([1.5 * math.log(9), -1.5, 0.125, -9.0]))


@pytest.fixture
def model() -> SegmentationModel:
    torch.manual_seed(0)
    parts = {"implicit_text": ImplicitTextConfig(free_words=3), "evidence": EvidenceConfig(3, 32)}
    config = ModelConfig(NAMES, dim=32, pixel_dim=16, **parts)
    names = embed_with_minilm(NAMES)
    audio, visual = LogMelEncoder(32), OpenVocabEncoder(load_efficientnet_lite0(), None)
    model = SegmentationModel(config, ClipSpec(image_size=64), OpenVocabularyNetwork(config, visual, audio, names))
    with torch.no_grad():
        model.network.prior.init_from_names(names)
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
