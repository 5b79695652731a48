"""Construction of networks and audio encoders by name, as written in recipes and checkpoints."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from icf_avs.config import ModelConfig
from icf_avs.encoders.registry import NEEDS_VOCABULARY, build_audio
from icf_avs.encoders.taggers import TAGGERS
from icf_avs.errors import UserError
from icf_avs.icf.channel_time import FeatureRefinement
from icf_avs.networks.avsegformer import AVSegFormer
from icf_avs.networks.base import Network
from icf_avs.networks.guided import GuidedNetwork
from icf_avs.networks.open_vocabulary import OpenVocabularyNetwork
from icf_avs.networks.pixel_decoder import DeformablePixelDecoder, LightPixelDecoder
from icf_avs.networks.query_network import QueryNetwork, TextAttention
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.networks.tpavi import TPAVI
from icf_avs.types import ClipSpec

NETWORKS = ("guided", "query", "tpavi", "avsegformer")
PIXEL_DECODERS = {"light": LightPixelDecoder, "deformable": DeformablePixelDecoder}
_EVIDENCE_ENCODER = "efficientnet-lite0-evidence"  # visual encoder of an open vocabulary


def build_network(
    config: ModelConfig, visual: nn.Module, audio: nn.Module | None = None, names: Tensor | None = None
) -> Network:
    """Build the network that a configuration names, with new weights. audio: None for the small encoder that is trained
    from scratch; names: text embeddings [C,E] of the classes, for the guided network only.

    Raises UserError for an unknown name, and ValueError for incompatible settings.
    """
    if config.network not in NETWORKS:
        raise UserError(f"no network is called {config.network}; there are {', '.join(NETWORKS)}")
    if config.pixel_decoder not in PIXEL_DECODERS:
        raise UserError(f"no pixel decoder is called {config.pixel_decoder}; there are {', '.join(PIXEL_DECODERS)}")
    audio = build_audio("log-mel", config.dim) if audio is None else audio
    if config.network == "guided":
        return _build_guided(config, visual, audio, cast(Tensor, names))
    classes = len(config.classes) + 1 if config.semantic else None
    options: dict[str, Any] = {"train_visual": config.train_visual, "classes": classes}
    network: Network
    if config.network == "tpavi":
        network = TPAVI(visual, audio, config.audio_dim, dim=config.dim, **options)
    elif config.network == "avsegformer":
        network = AVSegFormer(visual, audio, config.audio_dim, dim=config.dim, layers=config.layers, **options)
    else:
        decoder = PIXEL_DECODERS[config.pixel_decoder](cast(Any, visual).channels, config.dim)
        options |= {"layers": config.layers, "heads": config.heads}
        network = QueryNetwork(visual, audio, config.dim, decoder, **options)
    if config.mit and config.mit.reading == "refined":
        network.refinement = FeatureRefinement(network.visual.channels[-1], config.mit)
    elif config.mit:
        network.text = TextAttention(config.mit, network.visual.channels[-1], config.dim, config.heads)
    return network


def _build_guided(config: ModelConfig, visual: nn.Module, audio: nn.Module, names: Tensor) -> GuidedNetwork:
    if config.evidence is None:
        return GuidedNetwork(config, visual, audio, names)
    if config.visual != _EVIDENCE_ENCODER or config.audio not in TAGGERS:
        raise ValueError(
            f"evidence is what the encoders {_EVIDENCE_ENCODER} and {' or '.join(TAGGERS)} give: name them"
        )
    if not config.classes:
        raise ValueError("evidence is asked for the words of a reading: it needs names of classes")
    return OpenVocabularyNetwork(config, visual, audio, names)


def build_model(
    config: ModelConfig, spec: ClipSpec, visual: nn.Module, names: Tensor | None = None, audio: nn.Module | None = None
) -> SegmentationModel:
    """Build the network inside a SegmentationModel, which adds the metadata of a checkpoint."""
    return SegmentationModel(config, spec, build_network(config, visual, audio, names))


def build_model_audio(config: ModelConfig, names: Tensor, random: bool = False) -> nn.Module:
    """Build the audio encoder of a model. names: text embeddings [C,E] of its classes; random: no released weights.

    Raises UserError as `build_visual` does.
    """
    words = {"words": config.classes, "names": names} if config.audio in NEEDS_VOCABULARY else {}
    return build_audio(config.audio, None if config.bare_audio else config.dim, random=random, **words)


def reads_released_weights(config: ModelConfig) -> bool:
    """True if an encoder's weights are neither in the checkpoint nor in a package installed with this one."""
    visual = config.visual != "efficientnet-lite0" and not config.train_visual
    return visual or config.audio != "log-mel"
