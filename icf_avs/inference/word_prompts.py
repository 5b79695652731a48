"""`--words "dog, violin"`: an open-vocabulary model predicts these tags alone."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.config import EvidenceConfig
from icf_avs.encoders.tagger_encoder import audio_words
from icf_avs.errors import UserError
from icf_avs.networks.open_vocabulary import OpenVocabularyNetwork
from icf_avs.networks.segmentation_model import SegmentationModel

_OFFERED = 3  # words that are named where one is not known


def prompted_words(model: SegmentationModel, text: str) -> Tensor:
    """Words with commas between them -> the tags that may mean one of them, bool [C].

    A word that the vocabulary lacks goes through the text encoder. Raises UserError for a model without
    tags, for no word, for one that no tag is near to, and where the text encoder is missing.
    """
    if not isinstance(model.network, OpenVocabularyNetwork):
        raise UserError("--words needs a checkpoint with a sound tagger; take --checkpoint natural")
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if not words:
        raise UserError("--words names nothing; give one or more with commas between them: --words 'dog, violin'")
    names = cast(Tensor, model.audio.names).cpu()
    near = F.normalize(_vectors(model.classes, words, names), dim=-1) @ F.normalize(names, dim=-1).T
    # The vocabulary also holds words that are no sounds; alone, they would leave the model without any tag.
    near = near.masked_fill(torch.tensor([word not in audio_words() for word in model.classes]), -1.0)
    meant = near > cast("EvidenceConfig", model.config.evidence).synonym_threshold
    for word, row, found in zip(words, near, meant, strict=True):
        if not found.any():
            offered = ", ".join(model.classes[i] for i in row.topk(min(_OFFERED, len(row))).indices)
            raise UserError(
                f"{word!r}: no word of its vocabulary is similar to this one; the most similar are {offered}"
            )
    return meant.any(0)


def _vectors(vocabulary: tuple[str, ...], words: list[str], names: Tensor) -> Tensor:
    if all(word in vocabulary for word in words):
        return names[[vocabulary.index(word) for word in words]]
    from icf_avs.encoders.minilm import embed_names

    return embed_names(tuple(words)).to(names)
