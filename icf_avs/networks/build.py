"""Networks by name, as recipes and checkpoints write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from icf_avs.config import ModelConfig
from icf_avs.encoders.registry import build_audio
from icf_avs.encoders.tagger_encoder import TAGGERS
from icf_avs.errors import UserError
from icf_avs.icf.channel_time import Refinement
from icf_avs.networks.avsegformer import AVSegFormer
from icf_avs.networks.base import Network
from icf_avs.networks.guided import GuidedNetwork
from icf_avs.networks.open_vocabulary import OpenVocabularyNetwork
from icf_avs.networks.pixel_decoder import DeformablePixelDecoder, LightPixelDecoder
from icf_avs.networks.query_network import QueryNetwork
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.networks.text_attention import TextAttention
from icf_avs.networks.tpavi import TPAVI
from icf_avs.types import ClipSpec

_EVIDENCE = "efficientnet-lite0-evidence"  # visual encoder of an open vocabulary
PIXEL_DECODERS = {"light": LightPixelDecoder, "deformable": DeformablePixelDecoder}


def _query(config: ModelConfig, visual: nn.Module, audio: nn.Module, classes: int | None) -> Network:
    decoder = PIXEL_DECODERS[config.pixel_decoder](visual.channels, config.dim)
    return QueryNetwork(
        visual, audio, config.dim, decoder, train_visual=config.train_visual, classes=classes, layers=config.layers,
        heads=config.heads,
    )  # fmt: skip


def _tpavi(config: ModelConfig, visual: nn.Module, audio: nn.Module, classes: int | None) -> Network:
    return TPAVI(visual, audio, config.audio_dim, train_visual=config.train_visual, classes=classes, dim=config.dim)


def _avsegformer(config: ModelConfig, visual: nn.Module, audio: nn.Module, classes: int | None) -> Network:
    return AVSegFormer(
        visual, audio, config.audio_dim, train_visual=config.train_visual, classes=classes, dim=config.dim,
        layers=config.layers,
    )  # fmt: skip


NETWORKS: dict[str, Callable[[ModelConfig, nn.Module, nn.Module, int | None], Network]] = {
    "query": _query,
    "tpavi": _tpavi,
    "avsegformer": _avsegformer,
}


def build_network(
    config: ModelConfig, visual: nn.Module, audio: nn.Module | None = None, names: Tensor | None = None
) -> Network:
    """The network that a configuration names, of new weights. audio: None for the small encoder that is trained from
    scratch; names: text embeddings [C,E] of the classes, which the guided network reads.

    Raises UserError for an unknown name, and ValueError for settings that do not go together.
    """
    if config.network not in ("guided", *NETWORKS):
        raise UserError(f"no network is called {config.network}; there are guided, {', '.join(NETWORKS)}")
    if config.pixel_decoder not in PIXEL_DECODERS:
        raise UserError(f"no pixel decoder is called {config.pixel_decoder}; there are {', '.join(PIXEL_DECODERS)}")
    audio = build_audio("log-mel", config.dim) if audio is None else audio
    if config.network == "guided":
        if config.evidence and not (config.visual == _EVIDENCE and config.audio in TAGGERS):
            raise ValueError(f"evidence is what the encoders {_EVIDENCE} and {' or '.join(TAGGERS)} give: name them")
        if config.evidence and not config.classes:
            raise ValueError("evidence is asked for the words of a reading: it needs names of classes")
        guided = OpenVocabularyNetwork if config.evidence else GuidedNetwork
        return guided(config, visual, audio, cast(Tensor, names))
    classes = len(config.classes) + 1 if config.semantic else None
    network = NETWORKS[config.network](config, visual, audio, classes)
    if config.mit and config.mit.reading == "refined":
        network.refinement = Refinement(network.visual.channels[-1], config.mit)
    elif config.mit:
        network.text = TextAttention(config.mit, network.visual.channels[-1], config.dim, config.heads)
    return network


def build_model(
    config: ModelConfig, spec: ClipSpec, visual: nn.Module, names: Tensor | None = None, audio: nn.Module | None = None
) -> SegmentationModel:
    """`build_network`, and around it what a checkpoint knows of it."""
    return SegmentationModel(config, spec, build_network(config, visual, audio, names))
