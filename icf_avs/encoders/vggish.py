"""VGGish (Hershey et al., arXiv 1609.09430), the standard audio encoder of published results, and its adapter for ICF.

Source: PROTOCOLS, audio front end. The final ReLU is kept and there is no PCA, as in AVSBench's public code.
"""

from __future__ import annotations

from itertools import chain, pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from icf_avs.encoders.logmel_cnn import as_log_mel
from icf_avs.encoders.onednn_layers import FewRowsLinear
from icf_avs.encoders.weights import released_file, weight_loading_errors
from icf_avs.media.vggish_frontend import BANDS, WINDOW_FRAMES

URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
# The file name ends with the first eight digits, as usual in torch.hub. All 64 are given in the primitives of the D3M
# project (uncharted-distil/distil-primitives, audio_transfer.py), which pin the same URL.
SHA256 = "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b"
# Channels of the 3 x 3 convolutions, and whether a 2 x 2 max pooling follows.
CONVOLUTIONS = ((64, True), (128, True), (256, False), (256, True), (512, False), (512, True))
EMBEDDING = 128


class VGGish(nn.Module):
    """VGGish: log-mel [N, 96, 64] -> embedding [N, 128]; 72.14 M parameters, named as in the public weights file."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width, pooled in CONVOLUTIONS:
            layers.append(nn.Conv2d(inputs, width, 3, padding=1))
            # Max pooling before the ReLU: the same result, with a quarter of the values in the ReLU.
            layers += [*([nn.MaxPool2d(2, 2)] if pooled else []), nn.ReLU(inplace=True)]
            inputs = width
        self.features = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.cell = inputs * (BANDS // 16)  # features per time step of the last map, which has 6 steps
        widths = (self.cell * (WINDOW_FRAMES // 16), 4096, 4096, EMBEDDING)  # first matrix: 201 MB, memory-bound
        linears = [[FewRowsLinear(*sizes), nn.ReLU(inplace=True)] for sizes in pairwise(widths)]
        self.embeddings = nn.Sequential(*chain.from_iterable(linears))

    def forward(self, mel: Tensor) -> Tensor:
        return self.embed(self.steps(mel))

    def steps(self, mel: Tensor) -> Tensor:
        """Encode log-mel [N, 96, 64] -> time steps of the last map [N, 6, 2048], each flattened as band, channel."""
        if mel.shape[-2:] != (WINDOW_FRAMES, BANDS):
            raise ValueError(f"VGGish takes windows of {WINDOW_FRAMES} x {BANDS}, not {tuple(mel.shape)}")
        return self.features(mel[:, None]).permute(0, 2, 3, 1).flatten(2)

    def embed(self, steps: Tensor) -> Tensor:
        """Map the time steps [N, 6, 2048] to the embedding [N, 128]. They are flattened as height, width, channel."""
        return self.embeddings(steps.flatten(1))


class VGGishAudio(nn.Module):
    """VGGish adapter: waveforms [N, 15600] or log-mel [N, 96, 64] -> (token [N, D], tokens [N, 6, D]).

    Same interface as LogMelEncoder. The token is the projected embedding, the tokens are the projected time steps of
    the last map. The projections are trained, VGGish only if not `frozen`. dim: None for no projections, as in AVSBench
    and AVSegFormer: the token is the embedding [N, 128], the tokens are [N, 6, 2048].
    """

    def __init__(self, dim: int | None, vggish: VGGish, frozen: bool = True) -> None:
        super().__init__()
        self.vggish = vggish.requires_grad_(not frozen)
        self.project_token, self.project_tokens = (
            nn.Identity() if dim is None else nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim))
            for width in (EMBEDDING, vggish.cell)
        )

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.vggish.steps(as_log_mel(sound))
        return self.project_token(self.vggish.embed(steps)), self.project_tokens(steps)


def load_vggish(weights: str | Path | None = None) -> VGGish:
    """Load VGGish with the weights of `vggish-10086976.pth`, or of a safetensors file with the same names.

    Raises UserError if they are missing (see weights.released_file) or belong to another network.
    """
    path = released_file("VGGish", URL, SHA256, weights)
    with weight_loading_errors(path, "VGGish"):
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            network = VGGish()
        network.load_state_dict({key: value.float().contiguous() for key, value in state.items()}, assign=True)
        network.features.to(memory_format=torch.channels_last)
    return network


def load_vggish_audio(
    dim: int | None, weights: str | Path | None = None, random: bool = False, frozen: bool = True
) -> VGGishAudio:
    """Build the adapter with pretrained VGGish; random: no weights, for a checkpoint that contains them."""
    return VGGishAudio(dim, VGGish() if random else load_vggish(weights), frozen)
