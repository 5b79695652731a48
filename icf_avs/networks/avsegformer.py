"""AVSegFormer (Gao et al., "AVSegFormer: Audio-Visual Segmentation with Transformer", AAAI 2024; arXiv 2307.01146).

Written from the paper and the public description of its layers. Frames are independent, N = B*T, D = 256.

audio token [N,A] -> a [N,1,D]; pyramid -> 1 x 1 convolutions, GroupNorm: X_l [N,D,h_l,w_l]
query generator: learnt queries, layers of {self-attention, cross-attention to a, feed-forward}; + a second learnt table
encoder: deformable attention over X at strides 8, 16, 32 -> memory [N,L,D]
decoder: layers of {self-attention, cross-attention to memory, feed-forward} -> q [N,Q,D]
mask features M [N,D,h/4,w/4]: memory at stride 8, upsampled, + X at stride 4, convolution
mixer: a attends to all pixels of M; a sigmoid of the result scales the channels of M
head: S = q M [N,Q,h/4,w/4]; convolutions(M + MLP(S)) -> logits [B,T,h,w], the size of the frame
auxiliary["mixer"] [B,T,h/4,w/4]: the mean of M over channels, supervised as a mask by a Dice loss of weight 0.1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from icf_avs.networks.base import Network
from icf_avs.networks.deformable import HEADS, DeformableEncoder, init_matrices
from icf_avs.networks.mask_head import UpsamplingHead, split_class_logits
from icf_avs.networks.pixel_decoder import resize_like
from icf_avs.types import AudioFeatures, FeatureSpec, NetworkFeatures, NetworkOutput, VisualFeatures


class QueryGenerator(nn.Module):
    """audio [N,1,D] -> queries [N,Q,D]. Attention without bias, no dropout."""

    def __init__(self, dim: int, queries: int, layers: int) -> None:
        super().__init__()
        self.learnt = nn.Parameter(torch.empty(queries, dim))
        self.layers = nn.ModuleList(_layer(dim, 4 * dim, dropout=0.0) for _ in range(layers))
        for layer in self.layers:
            layer.self_attn = nn.MultiheadAttention(dim, HEADS, bias=False, batch_first=True)
            layer.multihead_attn = nn.MultiheadAttention(dim, HEADS, bias=False, batch_first=True)

    def forward(self, audio: Tensor) -> Tensor:
        queries = self.learnt.expand(audio.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, audio)
        return queries


class Mixer(nn.Module):
    """maps [N,D,h,w], audio [N,1,D] -> maps with channels scaled by the frame's audio."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, maps: Tensor, audio: Tensor) -> Tensor:
        pixels = maps.flatten(2).transpose(1, 2)
        q, k, v = (
            layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer, x in ((self.query, audio), (self.key, pixels), (self.value, pixels))
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return maps * self.out(attended)[:, 0, :, None, None].sigmoid()


class AVSegFormer(Network):
    """audio_dim: width of the audio encoder's token, 128 for VGGish. classes: number of class maps with background (71
    for AVSS), None for one mask. dim: a multiple of 32. Raises UserError if transformers is not installed.

    Features are the maps X_l and the projected audio token a.
    """

    def __init__(
        self, visual: nn.Module, audio: nn.Module, audio_dim: int = 128, *, train_visual: bool = False,
        classes: int | None = None, dim: int = 256, queries: int = 300, layers: int = 6,
    ) -> None:  # fmt: skip
        super().__init__(visual, audio, train_visual)
        self.dim, self.classes, hidden = dim, classes, 8 * dim
        self.project = nn.ModuleList(_normed(nn.Conv2d(width, dim, 1)) for width in self.visual.channels)
        self.project_audio = nn.Linear(audio_dim, dim)
        self.generator = QueryGenerator(dim, queries, layers)
        self.learnt = nn.Parameter(torch.empty(queries, dim))
        self.decoder = nn.ModuleList(_layer(dim, hidden, dropout=0.1) for _ in range(layers))
        self.lateral = _normed(nn.Conv2d(dim, dim, 1))
        self.smooth = nn.Sequential(_normed(nn.Conv2d(dim, dim, 3, padding=1)), nn.ReLU(inplace=True))
        self.mixer = Mixer(dim)
        self.fuse = nn.Sequential(
            nn.Conv2d(queries, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, dim, 1)
        )
        self.head = UpsamplingHead(dim, classes or 1, scale=4, bias=False)
        for module in (self.project, self.generator, self.decoder, self.lateral, self.smooth, self.mixer, self.fuse):
            init_matrices(module.parameters())
        init_matrices([self.learnt, *self.head.parameters()])
        self.encoder = DeformableEncoder(dim, layers, hidden, dropout=0.1)

    @property
    def feature_spec(self) -> FeatureSpec:
        return self._spec((self.dim,) * len(self.project), self.dim)

    def encode_visual(self, visual: VisualFeatures) -> VisualFeatures:
        """Return X_l, the memory at strides 8, 16 and 32, and M before the mixer."""
        lead = visual.pyramid[0].shape[:2]
        levels = [project(x.flatten(0, 1)) for project, x in zip(self.project, visual.pyramid, strict=True)]
        memory, lateral = self.encoder(levels[1:]), self.lateral(levels[0])
        mask = self.smooth(lateral + resize_like(memory[0], lateral))
        return VisualFeatures([x.unflatten(0, lead) for x in (*levels, *memory, mask)])

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """Decode the frames independently; `valid` has no effect."""
        lead, levels = audio.token.shape[:2], visual.pyramid[: len(self.project)]
        *memory, mask = (x.flatten(0, 1) for x in visual.pyramid[len(self.project) :])
        tokens = self.project_audio(audio.token)
        sound = tokens.flatten(0, 1)[:, None]  # N 1 D
        queries = self.generator(sound) + self.learnt
        memory_tokens = torch.cat([x.flatten(2) for x in memory], dim=2).transpose(1, 2)
        for layer in self.decoder:
            queries = layer(queries, memory_tokens)
        mask = self.mixer(mask, sound)
        similarity = torch.einsum("nqd,ndhw->nqhw", queries, mask)
        head_maps = self.head(mask + self.fuse(similarity))
        logits, classes = split_class_logits(head_maps.unflatten(0, lead), self.classes)
        features = NetworkFeatures(tuple(levels), tokens)
        return NetworkOutput(logits, features, classes, {"mixer": mask.mean(1).unflatten(0, lead)})


def _layer(dim: int, feed_forward: int, dropout: float) -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(dim, HEADS, feed_forward, dropout, activation="gelu", batch_first=True)


def _normed(layer: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.GroupNorm(32, layer.out_channels))
