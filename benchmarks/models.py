"""The models that are timed, all with random weights, and what they are given: the same frames and sounds for all."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tpavi import TPAVISegmenter
from icf_avs.config import CounterfactualConfig
from icf_avs.encoders.onednn_layers import TokenLinear
from icf_avs.encoders.registry import build_audio, build_visual
from icf_avs.media.vggish_frontend import log_mel
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.training.recipes import RECIPES, ablation
from icf_avs.types import Batch

CLASSES = tuple(f"kind {number}" for number in range(23))  # as many as S4 has
COUNTERFACTUALS = 4  # of a training step
FULL = {"train_visual": True, "audio": "vggish", "dim": 256, "pixel_dim": 64, "heads": 8}


@dataclass(frozen=True)
class Encoder:
    """A visual encoder: whether the full-size settings of the guided network go with it, and for tests fewer blocks
    than it has (depths).
    """

    name: str
    full: bool
    depths: tuple[int, int, int, int] | None = None

    def build(self, train: bool = False) -> nn.Module:
        options = {} if self.depths is None else {"depths": self.depths}
        return build_visual(self.name, random=True, frozen=not train, **options)


PVT, RESNET, EMBEDDED = (
    Encoder("pvt-v2-b5", True),
    Encoder("resnet-50", True),
    Encoder("efficientnet-lite0", False),
)


def ours(encoder: Encoder, train: bool = False, baseline: bool = False) -> SegmentationModel:
    """The guided network with K = 4; or its baseline row, without MIT, SC and CDCL."""
    torch.manual_seed(0)
    config = ablation(RECIPES["stamps"]()) if baseline else RECIPES["stamps"]()
    full = {"visual": encoder.name, **FULL} if encoder.full else {}
    model = replace(config.model, classes=CLASSES, **full)
    if not baseline:
        model = replace(model, counterfactual=CounterfactualConfig(COUNTERFACTUALS))
    names = F.normalize(torch.randn(len(CLASSES), 512 if encoder.full else 384), dim=-1)
    audio = build_audio(model.audio, model.dim, random=True) if model.audio != "log-mel" else None
    network = build_model(model, config.spec, encoder.build(train and model.train_visual), names, audio)
    return network.train() if train else network.eval()


class Heard(nn.Module):
    """In place of VGGish: what it says of the only sounds that it will be asked about."""

    def __init__(self, vggish: nn.Module, mel: Tensor) -> None:
        super().__init__()
        with torch.inference_mode():
            self.last = vggish.steps(mel)
            self.embedding = vggish.embed(self.last)

    def steps(self, mel: Tensor) -> Tensor:
        return self.last

    def embed(self, steps: Tensor) -> Tensor:
        return self.embedding


def given_embedding(model: SegmentationModel, given: Batch) -> tuple[SegmentationModel, Tensor]:
    """A model with VGGish -> the same with its answers in place of it, and the sounds to give to that: their log-mel,
    so that the spectrogram is not in its time either.
    """
    told, mel = copy(model), log_mel(given.waveforms)
    told._modules = {**model._modules, "network": copy(model.network)}
    told.network._modules = {**model.network._modules, "audio": copy(model.audio)}
    told.audio._modules = {**model.audio._modules, "vggish": Heard(model.audio.vggish, mel.flatten(0, 1))}
    return told, mel


def tpavi(encoder: Encoder, train: bool = False) -> TPAVISegmenter:
    """The reference with the same encoder, as transformers computes it: without our faster linear layers."""
    torch.manual_seed(0)
    network = TPAVISegmenter(encoder.build(train))
    for module in network.modules():
        if isinstance(module, TokenLinear):
            module.forward = nn.Linear.forward.__get__(module)
    return network.train() if train else network.eval()


def batch(clips: int = 1, frames: int = 5, size: int = 224) -> Batch:
    """Random pictures and sounds; clip i sounds kind i, a square, and kind i + 1 is silent beside it."""
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


def embedding(given: Batch) -> Tensor:
    """[B,T,128], what TPAVI is given of the sound: VGGish's embedding, whose own cost it is spared."""
    return torch.rand(*given.valid.shape, 128)
