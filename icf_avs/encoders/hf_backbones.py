"""Full-size visual encoders with four-level feature pyramids: PVTv2-B5, ResNet-50 and Swin-B.

Architectures and weights are from the library transformers: PVTv2 (arXiv 2106.13797), ResNet (1512.03385) and
Swin (2103.14030), pretrained on ImageNet-1k, ImageNet-1k and ImageNet-22k.

Verified without the weights: the hub lists config.json and model.safetensors under the names below, of 328, 102 and
437 MB, the sizes of these architectures with their classifiers (tested). Depths, widths and heads are from the authors'
PVTv2 code and, for the other two, from the config.json of fine-tuned models. Copies of all three have a
preprocessor_config.json with ImageNet's statistics, not with 0.5, transformers' default for ResNet and Swin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icf_avs.distributed import rand_for_batch
from icf_avs.encoders.onednn_layers import with_token_linears
from icf_avs.encoders.weights import download_command, model_folder, read_pretrained, require_transformers
from icf_avs.errors import UserError

MEAN, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics (all three), for images in [0, 1]
STAGES = ["stage1", "stage2", "stage3", "stage4"]
DROP_PATH = {"pvt_v2": 0.3, "swin": 0.3}  # stochastic depth, only if the encoder is trained


@dataclass(frozen=True)
class BackboneSpec:
    """One encoder: names in the hub and in transformers, channels, and configuration that differs from the defaults."""

    repo: str
    model_type: str
    prefix: str  # class name prefix in transformers
    channels: tuple[int, int, int, int]
    architecture: dict[str, Any]

    def transformers_class(self, ending: str) -> Any:
        import transformers

        return getattr(transformers, self.prefix + ending)

    def config(self, depths: tuple[int, ...] | None) -> Any:
        """Return the configuration for transformers. depths: override those of the published network."""
        options = self.architecture | ({} if depths is None else {"depths": list(depths)})
        if self.model_type in DROP_PATH:
            options["drop_path_rate"] = DROP_PATH[self.model_type]
        return self.transformers_class("Config")(**options, out_features=STAGES)


BACKBONES = {
    "pvt-v2-b5": BackboneSpec(
        "OpenGVLab/pvt_v2_b5", "pvt_v2", "PvtV2", (64, 128, 320, 512),
        {"depths": [3, 6, 40, 3], "hidden_sizes": [64, 128, 320, 512], "mlp_ratios": [4, 4, 4, 4]},
    ),
    "resnet-50": BackboneSpec(
        "microsoft/resnet-50", "resnet", "ResNet", (256, 512, 1024, 2048),
        {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"},
    ),
    "swin-b": BackboneSpec(
        "microsoft/swin-base-patch4-window7-224-in22k", "swin", "Swin", (128, 256, 512, 1024),
        {"depths": [2, 2, 18, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32], "window_size": 7},
    ),
}  # fmt: skip


class DropPath(nn.Module):
    """Stochastic depth of a residual branch [N,...], per frame. Unlike the class in transformers it draws for the whole
    batch, so that the result does not depend on the number of processes. `frames`: consecutive frames per clip.
    """

    drop_prob: float
    frames = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep_prob = 1 - self.drop_prob
        keep_mask = (rand_for_batch(len(x) // self.frames, self.frames, x.device) + keep_prob).floor()
        return x.div(keep_prob) * keep_mask.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


class PyramidBackbone(nn.Module):
    """Frames uint8 [N,H,W,3] -> four levels [N,channels[i],ceil(H/strides[i]),ceil(W/strides[i])].

    H and W may be any size of at least 32: the convolutions of PVTv2 and ResNet round up, Swin pads internally.
    If frozen, it stays in evaluation mode without gradients. If trained, batch normalisation keeps its pretrained
    statistics, since a batch of a few clips is too small to estimate them.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, network: nn.Module, channels: tuple[int, int, int, int], frozen: bool = True) -> None:
        super().__init__()
        self.network, self.channels, self.frozen = network, channels, frozen
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(not frozen).train()

    def forward(self, frames: Tensor) -> list[Tensor]:
        images = (frames.permute(0, 3, 1, 2).float() / 255.0 - self.mean) / self.scale
        # Decoders convolve the maps: given channels first, as by PVTv2 and Swin, they would copy them in every layer.
        return [level.contiguous(memory_format=torch.channels_last) for level in self.network(images).feature_maps]

    def set_clip_length(self, frames: int) -> None:
        """Set the number of frames per clip for the next batch."""
        for module in self.modules():
            if isinstance(module, DropPath):
                module.frames = frames

    def train(self, mode: bool = True) -> PyramidBackbone:
        super().train(mode and not self.frozen)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def load_backbone(
    name: str, weights: str | Path | None = None, random: bool = False, frozen: bool = True,
    depths: tuple[int, int, int, int] | None = None,
) -> PyramidBackbone:  # fmt: skip
    """Load encoder `name` of BACKBONES with weights of its hub model, another hub model (by id) or a local folder.

    random: no pretrained weights, for a checkpoint that contains them. depths: fewer blocks than in the published
    network. Raises UserError if transformers or the weights are missing or the weights are of another network.
    """
    spec = BACKBONES[name]
    require_transformers(name)
    if random:
        with torch.device("cpu"):  # torch 2.6 fails to import some modules under its meta device
            backbone = spec.transformers_class("Backbone")
        network = backbone(spec.config(depths))
    else:
        network = _pretrained(model_folder(spec.repo, weights), spec, name, depths)
    if spec.model_type == "swin":
        network.swin.layernorm = nn.Identity()  # the classifier's norm: unused, so it gets no gradients
    for module in network.modules():
        if type(module).__name__.endswith("DropPath"):
            module.__class__ = DropPath
    return PyramidBackbone(with_token_linears(network), spec.channels, frozen)


def _pretrained(folder: Path, spec: BackboneSpec, name: str, depths: tuple[int, ...] | None) -> nn.Module:
    config, advice = spec.config(depths), f"get the right ones with: {download_command(spec.repo)}"
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        stored = None
        if model_type == spec.model_type:
            stored = spec.transformers_class("Config").from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: config.json is not a model's configuration; {advice}") from error
    if stored is None:
        raise UserError(f"{folder}: holds a model of type {model_type}, not {name}; {advice}")
    for field in spec.architecture:
        expected_value, stored_value = getattr(config, field), getattr(stored, field)
        if expected_value != (list(stored_value) if isinstance(stored_value, tuple) else stored_value):
            raise UserError(f"{folder}: {field} is {stored_value}, but {name} has {expected_value}; {advice}")
    network, missing = read_pretrained(spec.transformers_class("Backbone"), folder, spec.repo, config=config)
    # SwinBackbone adds a norm per level, absent in classifier checkpoints; it is initialised to plain normalisation.
    missing = [key for key in missing if not key.startswith("hidden_states_norms.")]
    if missing:
        raise UserError(f"{folder}: {len(missing)} tensors of {name} are missing, as {missing[0]}; {advice}")
    return network
