"""Full-size visual encoders: PVTv2-B5, ResNet-50 and Swin-B as four-level pyramids.

Architectures and weights come through the library transformers: PVTv2 (arXiv 2106.13797), ResNet (1512.03385) and
Swin (2103.14030), pretrained on ImageNet-1k, ImageNet-1k and ImageNet-22k.

What could be verified without the weights: the hub's listings have config.json and model.safetensors under the names
below, of 328, 102 and 437 MB, which is what these architectures with their classifiers take (a test).
Depths, widths and heads are those of the authors' PVTv2 code and of the config.json in models fine-tuned from the other
two. Copies of all three have a preprocessor_config.json with ImageNet's statistics, not with the 0.5 that is
transformers' default for ResNet and Swin.
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

MEAN, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of all three, for images in [0, 1]
STAGES = ["stage1", "stage2", "stage3", "stage4"]
DROP_PATH = {"pvt_v2": 0.3, "swin": 0.3}  # stochastic depth, only where the encoder trains


@dataclass(frozen=True)
class BackboneSpec:
    """One encoder: its names in the hub and in transformers, its widths, and what sets it apart from the defaults."""

    repo: str
    model_type: str
    prefix: str  # of its classes in transformers
    channels: tuple[int, int, int, int]
    architecture: dict[str, Any]

    def transformers_class(self, ending: str) -> Any:
        import transformers

        return getattr(transformers, self.prefix + ending)

    def config(self, depths: tuple[int, ...] | None) -> Any:
        """The configuration in transformers. depths: other than those of the published network."""
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
    """Stochastic depth of a residual branch [N,...], frame by frame; as Transformers' own, but drawn for the whole
    batch, so that it does not depend on how many processes share it. `frames` of a clip come one after the other.
    """

    drop_prob: float
    frames = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        kept = (rand_for_batch(len(x) // self.frames, self.frames, x.device) + keep).floor()
        return x.div(keep) * kept.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


class PyramidBackbone(nn.Module):
    """frames uint8 [N,H,W,3] -> four levels [N,channels[i],ceil(H/strides[i]),ceil(W/strides[i])].

    Any H and W of at least 32 will do: the convolutions of PVTv2 and ResNet round up, Swin pads within.
    Frozen, it stays in evaluation mode and asks for no gradients. Trained, batch normalisation still keeps its
    statistics: a batch of a few clips has none worth having.
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
        return list(self.network(images).feature_maps)

    def set_clip_length(self, frames: int) -> None:
        """Frames of the next batch come in clips of so many."""
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
    """The encoder `name` of BACKBONES with the weights of its hub model, of another (a hub id) or of a local folder.

    random: no weights, for a checkpoint that brings its own. depths: fewer blocks than the published network has.
    Raises UserError when transformers is missing, the weights are, or they are of another network.
    """
    spec = BACKBONES[name]
    require_transformers(name)
    if random:
        with torch.device("cpu"):  # what is imported now: torch 2.6 fails to import some parts for its meta device
            backbone = spec.transformers_class("Backbone")
        network = backbone(spec.config(depths))
    else:
        network = _pretrained(model_folder(spec.repo, weights), spec, name, depths)
    if spec.model_type == "swin":
        network.swin.layernorm = nn.Identity()  # of the classifier: its output is not used, so it could never train
    for module in network.modules():
        if type(module).__name__.endswith("DropPath"):
            module.__class__ = DropPath
    return PyramidBackbone(with_token_linears(network), spec.channels, frozen)


def _pretrained(folder: Path, spec: BackboneSpec, name: str, depths: tuple[int, ...] | None) -> nn.Module:
    config, again = spec.config(depths), f"get the right ones with: {download_command(spec.repo)}"
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        found = None
        if model_type == spec.model_type:
            found = spec.transformers_class("Config").from_pretrained(folder)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: config.json is not a model's configuration; {again}") from error
    if found is None:
        raise UserError(f"{folder}: holds a model of type {model_type}, not {name}; {again}")
    for field in spec.architecture:
        ours, theirs = getattr(config, field), getattr(found, field)
        if ours != (list(theirs) if isinstance(theirs, tuple) else theirs):
            raise UserError(f"{folder}: {field} is {theirs}, but {name} has {ours}; {again}")
    network, missing = read_pretrained(spec.transformers_class("Backbone"), folder, spec.repo, config=config)
    # SwinBackbone adds a norm to every level, which no classifier has: it starts as plain normalisation.
    missing = [key for key in missing if not key.startswith("hidden_states_norms.")]
    if missing:
        raise UserError(f"{folder}: {len(missing)} tensors of {name} are missing, as {missing[0]}; {again}")
    return network
