"""Small networks without a visual encoder, and random batches for them: for tests of arithmetic, not of learning."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from icf_avs.config import ContrastiveConfig, CounterfactualConfig, ImplicitTextConfig, ModelConfig
from icf_avs.networks.build import build_model
from icf_avs.networks.guided import GuidedOutput
from icf_avs.networks.guided_parts.losses import GuidedLossWeights, guided_loss
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import Batch, ClipSpec

NAMES = ("bell", "cat", "dog", "drum", "train")
SIZE = 64  # frame size in pixels
WIDTHS = (6, 8, 10, 12)  # channels of the pyramid
PARTS = {
    "implicit_text": ImplicitTextConfig(free_words=3, tokens=2, segment=2),
    "counterfactual": CounterfactualConfig(count=2),
    "contrastive": ContrastiveConfig(dim=16),
}
COMBINATIONS = [dict(zip(PARTS, switches, strict=True)) for switches in product((False, True), repeat=3)]


class NoPictures(nn.Module):
    """Stand-in for the visual encoder: batches contain the pyramid."""

    channels = WIDTHS


def small_model(seed: int = 0, names: tuple = NAMES, semantic: bool = False, **switches: bool) -> SegmentationModel:
    """Guided network with dim 32 and pixel_dim 16; a part set to False by its name is left out."""
    torch.manual_seed(seed)
    parts: dict[str, Any] = {name: part if switches.get(name, True) else None for name, part in PARTS.items()}
    config = ModelConfig(names, dim=32, pixel_dim=16, semantic=semantic, **parts)
    return build_model(config, ClipSpec(image_size=SIZE), NoPictures(), torch.randn(len(names), 24))


def small_host(network: str, seed: int = 0) -> SegmentationModel:
    """Network by its name in networks/build.py, dim 32, without a visual encoder."""
    torch.manual_seed(seed)
    config = ModelConfig(NAMES, network, dim=32, pixel_dim=16, **dict.fromkeys(PARTS))
    return build_model(config, ClipSpec(image_size=SIZE), NoPictures())


def random_batch(clips: int = 3, frames: int = 2, seed: int = 0, kinds: int = len(NAMES)) -> Batch:
    """In clip i, class i (modulo `kinds`) sounds in every frame, its mask a rectangle; the next class is silent."""
    generator = torch.Generator().manual_seed(seed)
    lead = (clips, frames)
    pyramid = [
        torch.randn(*lead, width, SIZE // stride, SIZE // stride, generator=generator)
        for width, stride in zip(WIDTHS, (4, 8, 16, 32), strict=True)
    ]
    waveforms = 0.1 * torch.randn(*lead, ClipSpec().window, generator=generator)
    side = SIZE // 4
    masks = torch.zeros(*lead, side, side)
    sounding = torch.zeros(*lead, kinds, dtype=torch.bool)
    onscreen = torch.zeros(clips, kinds, dtype=torch.bool)
    for clip in range(clips):
        masks[clip, :, : 4 + 2 * (clip % 4), :8] = 1
        sounding[clip, :, clip % kinds] = True
        onscreen[clip, [clip % kinds, (clip + 1) % kinds]] = True
    class_map = (masks * (torch.arange(clips) % kinds + 1)[:, None, None, None]).long()
    every = torch.ones(lead, dtype=torch.bool)
    return Batch(pyramid, waveforms, masks, class_map, every, every.clone(), sounding, onscreen)


def run(model: SegmentationModel, batch: Batch, training: bool = True, **given: Any) -> GuidedOutput:
    """training: with counterfactuals; given: further arguments of `GuidedNetwork.decode`."""
    return model(batch.visual, batch.waveforms, batch.valid, sounding=batch.sounding if training else None, **given)


def loss_terms(model: SegmentationModel, batch: Batch, output: GuidedOutput | None = None) -> dict[str, Tensor]:
    """Loss terms of an output, by default that of `run`."""
    output = run(model, batch) if output is None else output
    return guided_loss(output, batch, model.network.joint_embedding, GuidedLossWeights())


def chosen(batch: Batch, clips: torch.Tensor) -> Batch:
    """Batch of the given clips, in this order."""
    parts = {name: value[clips] for name, value in vars(batch).items() if torch.is_tensor(value)}
    return replace(batch, pyramid=[level[clips] for level in batch.pyramid], **parts)
