"""Dense class evidence against the classifier and NumPy; words in ImageNet find their objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from icf_avs.encoders.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from icf_avs.encoders.open_vocab_encoder import ClassSimilarity, DenseClassifier, imagenet_names
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.synthetic.catalog import Catalog


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return load_efficientnet_lite0()


@pytest.fixture(scope="module")
def evidence(network: EfficientNetLite0) -> DenseClassifier:
    return DenseClassifier(network)


@pytest.fixture(scope="module")
def bridge() -> ClassSimilarity:
    return ClassSimilarity()


def _class(name: str) -> int:
    return next(i for i, names in enumerate(imagenet_names()) if names.split(",")[0] == name)


def test_mean_logits_equal_the_classifier(network: EfficientNetLite0, evidence: DenseClassifier) -> None:
    frames = torch.randint(0, 256, (2, 160, 128, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        pyramid = network(frames)
        expected = network.classifier(F.relu6(network.head(pyramid[-1])).mean((2, 3)))
        torch.testing.assert_close(evidence.logits(pyramid[-1]).mean((2, 3)), expected, atol=1e-4, rtol=1e-4)


def test_one_position_by_hand(network: EfficientNetLite0, evidence: DenseClassifier) -> None:
    level = torch.randn(1, 320, 3, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        scores = evidence(level)
    weight, bias = network.head.weight[:, :, 0, 0].numpy(), network.head.bias.numpy()
    hidden = np.clip(weight @ level[0, :, 2, 1].numpy() + bias, 0, 6)
    logits = network.classifier.weight.numpy() @ hidden + network.classifier.bias.numpy()
    expected = (logits - evidence.mean[:, 0, 0].numpy()) / evidence.deviation[:, 0, 0].numpy()
    np.testing.assert_allclose(scores[0, :, 2, 1].numpy(), expected, atol=1e-4)
    assert scores.shape == (1, 1000, 3, 4)
    torch.testing.assert_close(evidence(level[..., 1:2]), scores[..., 1:2])  # positions are independent


def test_statistics_are_plausible(evidence: DenseClassifier) -> None:
    assert evidence.mean.shape == evidence.deviation.shape == (1000, 1, 1)
    assert evidence.deviation.min() > 0.3 and evidence.deviation.max() < 6


def test_similarity_of_words_and_classes(bridge: ClassSimilarity) -> None:
    words = ("zebra", "dog", "train", "singer")
    nearness = bridge.similarity(embed_with_minilm(words))
    assert nearness.shape == (4, 1000)
    assert nearness[0].argmax() == _class("zebra") and nearness[0].max() > 0.99
    assert {int(i) for i in nearness[1].topk(118).indices} == set(range(151, 269))  # "hotdog" is further than any dog
    assert nearness[2].argmax() == _class("bullet train") or nearness[2].max() > 0.9
    assert nearness[3].max() < nearness[0].max()
    # By hand: of several names of a class, the nearest counts.
    names = [name.strip() for name in imagenet_names()[7].split(",")]
    expected = (embed_with_minilm(("hen",)) @ embed_with_minilm(tuple(names)).T).max()
    assert bridge.similarity(embed_with_minilm(("hen",)))[0, 7] >= expected - 1e-5


def test_a_state_dict_replaces_the_text_encoder(bridge: ClassSimilarity) -> None:
    other = ClassSimilarity(embed=False)
    assert not other.phrases.any()
    other.load_state_dict(bridge.state_dict())
    vectors = embed_with_minilm(("hen",))
    torch.testing.assert_close(other.similarity(vectors), bridge.similarity(vectors))
    torch.testing.assert_close(other.commonness, bridge.commonness)


@pytest.mark.parametrize(
    ("stem", "word"),
    [("vehicles/emergency/firetruck", "fire engine"), ("animals/birds/hen", "hen"),
     ("animals/mammals/equines/zebra", "zebra"), ("animals/mammals/dogs/dog", "dog")],
)  # fmt: skip
def test_relevance_finds_a_stamp(
    stem: str, word: str, catalog: Catalog, network: EfficientNetLite0, evidence: DenseClassifier,
    bridge: ClassSimilarity,
) -> None:  # fmt: skip
    picture = Image.new("RGB", (384, 384), (120, 150, 180))
    stamp = Image.open(catalog.image_path(stem)).convert("RGBA")
    scale = 176 / max(stamp.size)
    stamp = stamp.resize((round(stamp.width * scale), round(stamp.height * scale)))
    picture.paste(stamp, (8, 200), stamp)  # at the lower left
    with torch.inference_mode():
        scores = evidence(network(torch.from_numpy(np.asarray(picture).copy())[None])[-1])
        index, gates, _ = bridge.top_classes(embed_with_minilm((word, "violin")), 128)
        maps = (scores[0, index] * gates[..., None, None]).amax(1).clamp(min=0)  # 2 12 12
    y, x = divmod(int(maps[0].argmax()), 12)
    assert y >= 5 and x <= 6
    assert maps[0].max() > 4
    assert maps[0, 6:, :6].mean() > 3 * maps[0, :5].mean()
    assert maps[1].max() < 0.5 * maps[0].max()
