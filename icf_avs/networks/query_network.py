"""QueryNetwork, the base network of the paper: audio-conditioned queries attend to pixels, and pixels to queries.

The paper (sec. 4) names its parts: Mask2Former's pixel decoder after COMBO, and bi-directional query learning after
AVSAC (arXiv 2402.02327) and AVSegFormer (2307.01146). Its loss has no class term; hence one dense mask, no matching.

pyramid [B,T,C_l,h_l,w_l] -> pixel decoder -> mask features M [N,D,h/4,w/4], pixels V [N,L,D] at strides 32, 16, 8
audio token a [B,T,A] -> queries q_i = e_i * (1 + scale(a)) + shift(a) [N,Q,D]
each layer, cycling through the strides: q <- q + self(q); q <- q + cross(q, V), feed-forward;
    V <- V + cross(V, q), feed-forward (pre-norm)
M <- M + all V, upsampled; S = q M [N,Q,h/4,w/4]; logits = convolutions(M + MLP(S)) [B,T,h/4,w/4]

Cross-attention to the one audio token would add the same vector to all queries; scale and shift do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from icf_avs.encoders.onednn_layers import PointConv, separable_conv
from icf_avs.icf.implicit_text import ImplicitText
from icf_avs.networks.attention import CrossBlock, SelfBlock
from icf_avs.networks.base import Network
from icf_avs.networks.deformable import LEVELS, SinePositionEmbedding
from icf_avs.networks.mask_head import split_class_logits
from icf_avs.networks.pixel_decoder import DeformablePixelDecoder, LightPixelDecoder, resize_like
from icf_avs.settings import MIT
from icf_avs.types import AudioFeatures, FeatureSpec, NetworkFeatures, NetworkOutput, Texts, VisualFeatures


class AudioQueries(nn.Module):
    """audio [N,D] -> queries [N,Q,D]: learnt queries, scaled and shifted by the frame's audio."""

    def __init__(self, dim: int, queries: int) -> None:
        super().__init__()
        self.learnt = nn.Parameter(torch.randn(queries, dim))
        self.condition = nn.Linear(dim, 2 * dim)

    def forward(self, audio: Tensor) -> Tensor:
        scale, shift = self.condition(audio)[:, None].chunk(2, dim=-1)
        return self.learnt * (1 + scale) + shift


class BidirectionalLayer(nn.Module):
    """queries [N,Q,D], pixels [N,L,D] -> both, each after attending to the other."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.among_queries = SelfBlock(dim, heads)
        self.to_pixels, self.to_queries = CrossBlock(dim, heads), CrossBlock(dim, heads)

    def forward(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.to_pixels(self.among_queries(queries), pixels)
        return queries, self.to_queries(pixels, queries)


class DenseMaskHead(nn.Module):
    """queries [N,Q,D], mask features [N,D,h,w] -> maps [N,outputs,h,w]."""

    def __init__(self, dim: int, queries: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.fuse = nn.Sequential(PointConv(queries, dim), nn.ReLU(inplace=True), PointConv(dim, dim))
        self.predict = nn.Sequential(separable_conv(dim, norm=False), PointConv(dim, outputs))
        self.scale = dim**-0.5

    def forward(self, queries: Tensor, mask: Tensor) -> Tensor:
        similarity = torch.einsum("nqd,ndhw->nqhw", self.embed(queries), mask) * self.scale
        return self.predict(mask + self.fuse(similarity))


class TextAttention(nn.Module):
    """The reading "text" of MIT (sec. 4.2 of the paper, two steps): queries [N,Q,D] attend to the texts l^v and l^a of
    their frame (eq. 1-4). They attend to both, not to the fused text: a single token would shift all queries equally.
    At test the texts of the banks are constants; training needs text encoders, set by `implicit_text.attach`.

    visual: channels of the visual map; dim: width of queries and audio tokens.
    """

    def __init__(self, settings: MIT, visual: int, dim: int, heads: int) -> None:
        super().__init__()
        self.implicit_text = ImplicitText(settings, visual, dim, None)
        self.enter, self.block = nn.Linear(settings.dim, dim), CrossBlock(dim, heads)

    def forward(self, queries: Tensor, visual: Tensor, audio: Tensor, valid: Tensor) -> tuple[Tensor, Texts]:
        """visual [B,T,C,h,w], audio [B,T,D], valid [B,T] bool; N = B T."""
        texts = self.implicit_text(visual, audio, valid)
        tokens = self.enter(torch.stack([texts.visual, texts.audio], 2)).flatten(0, 1)  # N 2 D
        return self.block(queries, tokens), texts


class QueryNetwork(Network):
    """audio_dim: width of the audio encoder's token. classes: number of class maps with background, None for one mask.

    Logits are at stride 4. Features are the pixel decoder's maps (strides 4 to 32) and the projected audio token.
    """

    def __init__(
        self, visual: nn.Module, audio: nn.Module, audio_dim: int,
        pixel_decoder: LightPixelDecoder | DeformablePixelDecoder, *, train_visual: bool = False,
        classes: int | None = None, queries: int = 16, layers: int = 3, heads: int = 8,
    ) -> None:  # fmt: skip
        super().__init__(visual, audio, train_visual)
        dim = pixel_decoder.dim
        self.dim, self.classes, self.pixel_decoder = dim, classes, pixel_decoder
        self.project_audio = nn.Linear(audio_dim, dim)
        self.queries = AudioQueries(dim, queries)
        self.text: TextAttention | None = None  # only in the reading "text" of MIT
        self.position = SinePositionEmbedding(dim, normalised=True)
        self.level = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(BidirectionalLayer(dim, heads) for _ in range(layers))
        self.head = DenseMaskHead(dim, queries, classes or 1)

    @property
    def feature_spec(self) -> FeatureSpec:
        return self._spec((self.dim,) * 4, self.dim)

    def encode_visual(self, visual: VisualFeatures) -> VisualFeatures:
        """Return the maps of the pixel decoder and, with text attention, the coarsest map of the encoder."""
        lead = visual.pyramid[0].shape[:2]
        mask, maps = self.pixel_decoder([level.flatten(0, 1) for level in visual.pyramid])
        coarsest = [] if self.text is None else [visual.pyramid[-1]]
        return VisualFeatures([*(x.unflatten(0, lead) for x in (mask, *maps)), *coarsest])

    def decode(self, visual: VisualFeatures, audio: AudioFeatures, valid: Tensor) -> NetworkOutput:
        """Decode the frames independently; only texts depend on their segment and video, and on `valid`."""
        lead = audio.token.shape[:2]
        mask, *maps = (x.flatten(0, 1) for x in visual.pyramid[: 1 + LEVELS])
        token = self.project_audio(audio.token)
        queries, pixels, texts = self.queries(token.flatten(0, 1)), self._tokens(maps), None
        if self.text is not None:
            queries, texts = self.text(queries, visual.pyramid[-1], token, valid)
        for index, layer in enumerate(self.layers):
            level = index % LEVELS
            queries, pixels[level] = layer(queries, pixels[level])
        head_maps = self.head(queries, self._onto_mask(pixels, maps, mask))
        logits, classes = split_class_logits(head_maps.unflatten(0, lead), self.classes)
        levels = tuple(x.unflatten(0, lead) for x in (mask, *maps[::-1]))
        return NetworkOutput(logits, NetworkFeatures(levels, token, texts=texts), classes)

    def _tokens(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps of three strides -> tokens [N,L,D] of each, with embeddings of position and stride."""
        return [
            (x + self.position(x.shape, x.device, x.dtype) + level[:, None, None]).flatten(2).transpose(1, 2)
            for x, level in zip(maps, self.level, strict=True)
        ]

    def _onto_mask(self, tokens: Sequence[Tensor], maps: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Add the tokens of all strides to the mask features, coarse to fine."""
        coarse, *finer = [x.transpose(1, 2).unflatten(2, y.shape[-2:]) for x, y in zip(tokens, maps, strict=True)]
        for x in (*finer, mask):
            coarse = x + resize_like(coarse, x)
        return coarse
