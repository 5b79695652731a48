"""The networks that are timed, with random weights, and their input: the same frames and waveforms for all.

PUBLISHED is the reference: TPAVI as the field runs it. It has the weights of this package's TPAVI, PyTorch's linear
layers, and the attention matrix over all pairs of positions [Thw,Thw] of the authors' code (a gigabyte per clip).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.config import CounterfactualConfig, TrainConfig
from icf_avs.encoders.registry import build_visual
from icf_avs.encoders.tagger_encoder import audio_words
from icf_avs.networks.build import build_model, build_model_audio
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.networks.tpavi import PixelWiseInteraction
from icf_avs.training.recipes import RECIPES, with_network, with_visual
from icf_avs.types import Batch

CLASSES = tuple(f"kind {number}" for number in range(23))  # as many as in S4
PUBLISHED = "TPAVI as published"
NETWORKS = (PUBLISHED, "query-light", "query-deformable", "tpavi", "avsegformer", "guided")
FULL = {"train_visual": True, "audio": "vggish", "dim": 256, "pixel_dim": 64, "heads": 8}  # of the guided network
COUNTERFACTUALS = 4  # per training step of the guided network


@dataclass(frozen=True)
class Encoder:
    """A visual encoder. depths: fewer blocks than usual, for tests."""

    name: str
    depths: tuple[int, int, int, int] | None = None

    def build(self, train: bool = False) -> nn.Module:
        options = {} if self.depths is None else {"depths": self.depths}
        return build_visual(self.name, random=True, frozen=not train, **options)


PVT, RESNET = Encoder("pvt-v2-b5"), Encoder("resnet-50")
ENCODERS = {encoder.name: encoder for encoder in (RESNET, PVT)}


def recipe(network: str, encoder: Encoder) -> TrainConfig:
    """Return the S4 training recipe of a network with this encoder."""
    config = with_visual(RECIPES["s4-pvt"](), encoder.name, "")
    if network == "guided":
        model = replace(RECIPES["stamps"]().model, visual=encoder.name, classes=CLASSES, **FULL)
        return replace(config, model=replace(model, counterfactual=CounterfactualConfig(COUNTERFACTUALS)), icf=None)
    kind, _, decoder = network.partition("-")
    if kind == "query":
        return replace(config, model=replace(config.model, pixel_decoder=decoder))
    return with_network(config, "tpavi" if network == PUBLISHED else network)


def build(network: str, encoder: Encoder, train: bool = False) -> SegmentationModel:
    """Build one of NETWORKS with random weights, for frames and waveforms. All of them compute VGGish."""
    torch.manual_seed(0)
    config = recipe(network, encoder)
    names = F.normalize(torch.randn(len(CLASSES), 512), dim=-1)
    settings = config.model_config(CLASSES)
    audio = build_model_audio(settings, names, random=True)
    model = build_model(settings, config.spec, encoder.build(train), names, audio)
    if network == PUBLISHED:
        as_published(model)
    return model.train() if train else model.eval()


def build_small(of: str, size: int | None = None) -> SegmentationModel:
    """Build the network of the recipe "stamps" or "natural" with its small encoders. size: of the frames (default: the
    final size of the recipe).
    """
    torch.manual_seed(0)
    config = RECIPES[of]()
    settings, spec = config.model_config(audio_words() if config.words else CLASSES), config.final_spec
    names = F.normalize(torch.randn(len(settings.classes), 384), dim=-1)
    visual, audio = build_visual(settings.visual, random=True), build_model_audio(settings, names, random=True)
    return build_model(settings, replace(spec, image_size=size or spec.image_size), visual, names, audio).eval()


class PairwiseInteraction(PixelWiseInteraction):
    """The same result in the order of the authors' code: first the product over all pairs of positions."""

    def forward(self, maps: Tensor, audio: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        lead, size = audio.shape[:2], maps.shape[-2:]
        frames, tokens = maps.flatten(0, 1), self.align(audio)
        theta, g = (layer(frames).unflatten(0, lead).movedim(2, -1).flatten(1, 3) for layer in (self.theta, self.g))
        phi = self.phi(tokens[:, :, None].expand(-1, -1, size.numel(), -1).flatten(1, 2))  # B Thw D/2
        read = (theta @ phi.transpose(1, 2) / phi.shape[1]) @ g
        read = self.out(read.unflatten(1, (lead[1], *size)).movedim(-1, 2).flatten(0, 1))
        norm = self.batch_norm
        read = F.batch_norm(read, norm.running_mean, norm.running_var, norm.weight, norm.bias, self.training)
        return self.norm((maps + read.unflatten(0, lead)).movedim(2, -1)).movedim(-1, 2), tokens


def as_published(network: nn.Module) -> nn.Module:
    """Change TPAVI in place to the computation of the authors' code."""
    for module in network.modules():
        if isinstance(module, PixelWiseInteraction):
            module.__class__ = PairwiseInteraction
        elif isinstance(module, nn.Linear):
            module.__class__ = nn.Linear
    return network


def batch(clips: int = 1, frames: int = 5, size: int = 224) -> Batch:
    """Return random frames and waveforms. In clip i, class i sounds (a square), and class i + 1 is silent."""
    torch.manual_seed(0)
    side = size // 4
    masks = torch.zeros(clips, frames, side, side)
    masks[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    sounding = torch.zeros(clips, frames, len(CLASSES), dtype=torch.bool)
    onscreen = torch.zeros(clips, len(CLASSES), dtype=torch.bool)
    for clip in range(clips):
        sounding[clip, :, clip % len(CLASSES)] = True
        onscreen[clip, [clip % len(CLASSES), (clip + 1) % len(CLASSES)]] = True
    class_map = (masks * (torch.arange(clips) % len(CLASSES) + 1)[:, None, None, None]).long()
    every = torch.ones(clips, frames, dtype=torch.bool)
    pictures = torch.randint(0, 256, (clips, frames, size, size, 3), dtype=torch.uint8)
    waveforms = 0.1 * torch.randn(clips, frames, 15_600)
    return Batch([], waveforms, masks, class_map, every, every.clone(), sounding, onscreen, frames=pictures)
