"""Small networks of every kind with small random encoders: for tests of shapes and arithmetic, not of learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icf_avs.encoders.logmel_cnn import LogMelEncoder
from icf_avs.networks import TPAVI, AVSegFormer, DeformablePixelDecoder, LightPixelDecoder, Network, QueryNetwork

WIDTHS = (6, 8, 10, 12)  # channels of the pyramid
AUDIO = 16  # width of the audio token
DIM = 32


class SmallVisual(nn.Module):
    """frames uint8 [N,H,W,3] -> four levels, strides 4 to 32, sizes rounded up as in the real encoders."""

    channels = WIDTHS

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS)
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs[i], inputs[i + 1], 3, stride=4 if i == 0 else 2, padding=1) for i in range(4)
        )

    def forward(self, frames: Tensor) -> list[Tensor]:
        x, levels = frames.permute(0, 3, 1, 2).to(self.layers[0].weight.dtype) / 255, []
        for layer in self.layers:
            x = layer(x).relu()
            levels.append(x)
        return levels


class Clips(NamedTuple):
    """frames uint8 [B,T,H,W,3], sound log-mel [B,T,96,64], valid [B,T]."""

    frames: Tensor
    sound: Tensor
    valid: Tensor

    def at(self, clips: Any, frames: Any = slice(None)) -> Clips:
        return Clips(*(x[clips, frames] for x in self))


BUILDERS: dict[str, Callable[..., Network]] = {
    "query-light": lambda *encoders, **options: QueryNetwork(
        *encoders, AUDIO, LightPixelDecoder(WIDTHS, DIM), queries=4, **options
    ),
    "query-deformable": lambda *encoders, **options: QueryNetwork(
        *encoders, AUDIO, DeformablePixelDecoder(WIDTHS, DIM, layers=1), queries=4, **options
    ),
    "tpavi": lambda *encoders, **options: TPAVI(*encoders, AUDIO, dim=DIM, **options),
    "avsegformer": lambda *encoders, **options: AVSegFormer(*encoders, AUDIO, dim=DIM, queries=5, layers=1, **options),
}


def small_network(name: str, train_visual: bool = False, **options: Any) -> Network:
    """Network in evaluation mode, no parameter all zero. The visual encoder requires gradients only if trained."""
    torch.manual_seed(0)
    visual = SmallVisual().requires_grad_(train_visual)
    network = BUILDERS[name](visual, LogMelEncoder(AUDIO), train_visual=train_visual, **options)
    for parameter in network.parameters():  # all-zero parameters pass on no gradient
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def random_clips(clips: int = 2, frames: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0) -> Clips:
    generator = torch.Generator().manual_seed(seed)
    lead = (clips, frames)
    return Clips(
        torch.randint(0, 256, (*lead, *size, 3), generator=generator, dtype=torch.uint8),
        torch.randn(*lead, 96, 64, generator=generator),
        torch.ones(lead, dtype=torch.bool),
    )
