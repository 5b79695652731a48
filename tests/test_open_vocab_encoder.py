"""Visual encoders of the open vocabulary against their published networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icf_avs.encoders import voc_segmenter
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0, weights_path
from icf_avs.encoders.open_vocab_encoder import DenseClassifier
from icf_avs.encoders.voc_segmenter import load_segmenter
from icf_avs.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "things.json").read_text())


@torch.no_grad()
def test_efficientnet_equals_the_published_network_also_densely() -> None:
    network, package = load_efficientnet_lite0().train(), pytest.importorskip("efficientnet_lite_pytorch")
    oracle = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights_path())).eval()
    frames = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = oracle((frames.permute(0, 3, 1, 2) / 255.0 - 0.498) / 0.502)
    pyramid = network(frames)
    assert [tuple(level.shape[1:]) for level in pyramid] == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    pooled = network.classifier(F.relu6(network.head(pyramid[-1])).mean((2, 3)))
    dense = DenseClassifier(network)
    for found in (pooled, (dense(pyramid[-1]) * dense.deviation + dense.mean).mean((2, 3))):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


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


def test_a_file_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = voc_segmenter.fetch_weights().read_bytes()
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / voc_segmenter.FILE).write_bytes(archive[:-4] + b"more")
    with pytest.raises(UserError, match=r"weights of the VOC segmenter are damaged .*SHA-256"):
        load_segmenter()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not the weights of EfficientNet-Lite0"):
        load_efficientnet_lite0(tmp_path / "weights.pth")
