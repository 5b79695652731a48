"""Registry of encoders by the names used in recipes and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from icf_avs.encoders.efficientnet_lite import EfficientNetLite0, load_efficientnet_lite0
from icf_avs.encoders.hf_backbones import BACKBONES, load_backbone
from icf_avs.encoders.logmel_cnn import LogMelEncoder
from icf_avs.encoders.open_vocab_encoder import OpenVocabEncoder
from icf_avs.encoders.tagger_encoder import load_tagger_encoder
from icf_avs.encoders.taggers import TAGGERS
from icf_avs.encoders.text_encoders import embed_with_clip, embed_with_minilm
from icf_avs.encoders.vggish import load_vggish_audio
from icf_avs.encoders.voc_segmenter import VocSegmenter, load_segmenter_or_none
from icf_avs.errors import UserError


def _efficientnet_lite0(weights: str | Path | None = None, random: bool = False, frozen: bool = True) -> nn.Module:
    if not frozen:
        raise UserError("efficientnet-lite0 does not train, its normalisation is folded; choose resnet-50 instead")
    return EfficientNetLite0() if random else load_efficientnet_lite0(Path(weights) if weights else None)


def _with_evidence(random: bool = False, **options: Any) -> nn.Module:
    segmenter = VocSegmenter() if random else load_segmenter_or_none()
    return OpenVocabEncoder(_efficientnet_lite0(random=random, **options), segmenter)


def _log_mel(dim: int, weights: None = None, random: bool = False, frozen: bool = False) -> nn.Module:
    if weights is not None or frozen:
        raise UserError("the log-mel encoder is trained from scratch: it takes no weights; choose vggish instead")
    return LogMelEncoder(dim)


VISUAL: dict[str, Callable[..., nn.Module]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "efficientnet-lite0-evidence": _with_evidence,
    **{name: partial(load_backbone, name) for name in BACKBONES},
}
AUDIO: dict[str, Callable[..., nn.Module]] = {
    "log-mel": _log_mel,
    "vggish": load_vggish_audio,
    **{name: partial(load_tagger_encoder, tagger=name) for name in TAGGERS},
}
NEEDS_VOCABULARY = frozenset(TAGGERS)  # audio encoders with the options words and names (the vocabulary)
ACCEPTS_LOG_MEL = frozenset(("log-mel", "vggish"))  # audio encoders that also accept log-mel [N,96,64]
TEXT: dict[str, Callable[..., Tensor]] = {"minilm": embed_with_minilm, "clip": embed_with_clip}


def build_visual(name: str, **options: Any) -> nn.Module:
    """Build a visual encoder: frames uint8 [N,H,W,3] -> four levels; with attributes `channels` and `strides`.

    options: weights, random, frozen (see load_backbone). Raises UserError for an unknown name or missing weights.
    """
    return _find(VISUAL, name, "visual")(**options)


def build_audio(name: str, dim: int | None, **options: Any) -> nn.Module:
    """Build an audio encoder: waveforms [N,15600] or log-mel [N,96,64] -> (token [N,dim], tokens [N,6,dim]). dim: None
    for VGGish without a projection.

    options: weights, random, frozen (see load_vggish_audio); of a tagger words, names, random. Raises UserError as
    `build_visual` does.
    """
    return _find(AUDIO, name, "audio")(dim, **options)


def embed_names(name: str, names: tuple[str, ...], **options: Any) -> Tensor:
    """Embed class names with the text encoder `name` -> unit vectors [len(names), E]. Raises UserError as above."""
    return _find(TEXT, name, "text")(names, **options)


def _find(table: dict[str, Callable[..., Any]], name: str, kind: str) -> Callable[..., Any]:
    if name not in table:
        raise UserError(f"no {kind} encoder is called {name}; there are {', '.join(table)}")
    return table[name]
