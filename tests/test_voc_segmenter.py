"""The VOC segmenter against its published graph, on real photographs, and the source of its weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from icf_avs.encoders import voc_segmenter
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.open_vocab_encoder import DenseClassifier, OpenVocabEncoder
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import (
    GRID,
    VOC_CLASSES,
    VocSegmenter,
    load_segmenter,
    load_segmenter_or_none,
    voc_names,
    voc_similarity,
)
from icf_avs.errors import UserError
from icf_avs.networks.open_vocabulary_parts.segmenter_prior import SegmenterPrior, fuse_segmenter
from icf_avs.synthetic import asset_packages

GOLDEN = json.loads((Path(__file__).parent / "golden" / "things.json").read_text())
NAMES = [names[0] for names, _ in voc_names()]


@pytest.fixture(scope="module")
def segmenter() -> VocSegmenter:
    return load_segmenter()


def golden_picture() -> torch.Tensor:
    y, x, c = np.mgrid[:513, :513, :3]
    return torch.from_numpy(((((y * 3 + x * (c + 1)) // 2) ^ ((x * y) >> 6)) & 255).astype(np.uint8))


def test_logits_equal_those_of_the_published_graph() -> None:
    network = load_segmenter()
    for index, block in enumerate(network.blocks):  # the published graph removes two strides, ours one
        rate = 1 if index < 7 else 2 if index < 14 else 4
        layer = block.depthwise
        layer.stride = (1, 1) if index == 6 else layer.stride
        layer.dilation = layer.padding = (rate, rate)
    logits = network.logits(golden_picture()[None])[0]
    assert logits.shape == (1 + VOC_CLASSES, 65, 65)
    found = torch.stack([logits[:, row, column] for row, column in GOLDEN["positions"]])
    torch.testing.assert_close(found, torch.tensor(GOLDEN["logits"]), atol=2e-3, rtol=0)


def on_grass(stem: str, side: int = 300) -> torch.Tensor:
    """A photographic stamp at 80 % of the frame size on plain green: uint8 [1,side,side,3]."""
    stamp = Image.open(asset_packages.stamps_root() / f"{stem}.png").convert("RGBA")
    scale = side * 0.8 / max(stamp.size)
    stamp = stamp.resize((round(stamp.width * scale), round(stamp.height * scale)))
    picture = Image.new("RGB", (side, side), (120, 150, 90))
    picture.paste(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2), stamp)
    return torch.from_numpy(np.array(picture))[None]


@pytest.mark.parametrize(
    ("stem", "thing"),
    [("animals/birds/owl", "bird"), ("animals/mammals/bovines/cow", "cow"), ("animals/mammals/bovines/sheep", "sheep"),
     ("animals/mammals/dogs/dog", "dog"), ("people/fireman240a", "person"),
     ("vehicles/masstransit/green_korean_bus", "bus")],
)  # fmt: skip
def test_objects_in_photographs_are_recognized(segmenter: VocSegmenter, stem: str, thing: str) -> None:
    shares = segmenter(on_grass(stem))
    assert shares.shape == (1, VOC_CLASSES, GRID, GRID) and shares.min() >= 0 and shares.sum(1).max() <= 1 + 1e-5
    middle = shares[0, :, GRID // 2 - 2 : GRID // 2 + 3, GRID // 2 - 2 : GRID // 2 + 3].mean((1, 2))
    assert NAMES[int(middle.argmax())] == thing and middle.max() > 0.5
    assert shares[0, :, :2, :2].sum(0).max() < 0.2  # background in the corner


def test_evidence_returns_levels_scores_and_probabilities(segmenter: VocSegmenter) -> None:
    network = load_efficientnet_lite0()
    frames = torch.randint(0, 256, (2, 96, 64, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.inference_mode():
        levels, scores, shares = OpenVocabEncoder(network, segmenter).evidence(frames)
        torch.testing.assert_close(shares, segmenter(frames))
        expected = DenseClassifier(network)(levels[-1])
        given = OpenVocabEncoder(network, segmenter).evidence(frames, shares + 1)
        without = OpenVocabEncoder(network, None).evidence(frames)
    assert [level.shape[1] for level in levels] == list(OpenVocabEncoder.channels)
    assert scores.shape == (2, 1000, 3, 2) and torch.equal(scores, expected)
    assert torch.equal(given.object_probs, shares + 1) and torch.equal(given.class_scores, scores)
    assert without.object_probs.shape == shares.shape and not without.object_probs.any()


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
    assert all(kin[word][at] >= fit[word][at] for word in words for at in range(VOC_CLASSES))


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
    expected = [[0.2, 0, 0], [1.8 * math.log(0.7), 1.8 * math.log(0.7), 1.8 * half]]
    torch.testing.assert_close(less_sure, torch.tensor(expected))
    assert not any(of.any() for of in evidence(torch.tensor([[[1.0, 0.0, 0.0]]]), torch.zeros_like(shares)))


def test_fuse_segmenter_by_hand() -> None:
    """Four positions: the class asked for, another class, uncertain, nothing."""
    meant, against = torch.tensor([[0.9, 0.0, 0.5, 0.0], [0.0, -2.5, -0.125, 0.0]]).view(2, 1, 1, 4)
    found = torch.stack([meant, against], dim=1)
    settled = fuse_segmenter(torch.tensor([-2.0, 1.0, 0.25, -9.0]).view(1, 1, 4), found)[0, 0]
    torch.testing.assert_close(settled, torch.tensor([1.5 * math.log(9), -1.5, 0.125, -9.0]))
    assert torch.isfinite(fuse_segmenter(torch.zeros(1, 1, 1), torch.ones(1, 2, 1, 1))).all()


def test_the_segmenter_prior_is_finite() -> None:
    evidence = SegmenterPrior(1, 1)
    evidence.init_from_names(torch.zeros(1, VOC_CLASSES), torch.zeros(1, VOC_CLASSES))
    shares = torch.zeros(1, VOC_CLASSES, 1, 1)
    shares[0, 3] = 1
    maps, found = evidence(torch.ones(1, 1, 1), shares)
    assert torch.isfinite(maps).all() and torch.isfinite(found).all() and found[0, 0, 1] < -5


def weights_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the weights cache to a place below `folder`; return that place."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.delenv("ICF_WEIGHTS_DIR", raising=False)
    return folder / "hub" / "checkpoints"


def test_offline_the_segmenter_is_omitted(tmp_path: Path, monkeypatch, caplog) -> None:
    weights_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with caplog.at_level("INFO", "icf_avs"):
        assert load_segmenter_or_none() is None
    (said,) = caplog.messages
    assert "\n" not in said and "HF_HUB_OFFLINE is set" in said
    assert f"curl -L --create-dirs -o weights/{voc_segmenter.FILE}" in said


def test_a_file_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = bytearray(voc_segmenter.fetch_weights().read_bytes())
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    here = tmp_path / voc_segmenter.FILE
    here.write_bytes(archive)
    assert len(voc_segmenter.read_weights()) == 148
    for content in (bytes(archive[:-4]), bytes(archive[:-4]) + b"more", b"no archive", b""):
        here.write_bytes(content)
        with pytest.raises(UserError, match=r"weights of the VOC segmenter are damaged .*SHA-256"):
            load_segmenter()
