"""The visual encoder against the package that the weights come from."""

import pytest
import torch
from torch.nn import functional as F

from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0, weights_path
from icf_avs.encoders.onednn_layers import pointwise
from icf_avs.errors import UserError


def test_equals_the_published_network():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    oracle = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights_path())).eval()
    ours = load_efficientnet_lite0()
    frames = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = oracle((frames.permute(0, 3, 1, 2) / 255.0 - 0.498) / 0.502)
        pyramid = ours(frames)
        actual = ours.classifier(F.relu6(ours.head(pyramid[-1])).mean((2, 3)))
    assert [tuple(level.shape[1:]) for level in pyramid] == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    assert torch.allclose(actual, expected, atol=1e-3), (actual - expected).abs().max()


def test_pointwise_equals_a_product_and_exports_as_convolution():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 16, 9, 7), (32, 16, 1, 1), (32,)))
    expected = torch.einsum("nihw,oi->nohw", x.double(), weight[:, :, 0, 0].double()) + bias.double()[:, None, None]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.testing.assert_close(pointwise(x, weight, bias).double(), expected, atol=1e-4, rtol=0)
    finally:
        torch.set_num_threads(before)

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return pointwise(x, self.weight, self.bias)

    program = torch.export.export(One(), (x,))
    convolution = next(node for node in program.graph.nodes if "conv2d" in str(node.target))
    assert len(convolution.args) == 3  # no dilation


def test_never_trains():
    network = load_efficientnet_lite0().train()
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_foreign_weights_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="not the weights"):
        load_efficientnet_lite0(tmp_path / "x.pth")
