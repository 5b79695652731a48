"""The audio encoder "efficientat": a sound enters as the words that a tagger predicts for it.

    a = norm( P sum_w (h_w / sum h) e_w  g + n (1 - g) )                   g = min(1, max_w h_w / threshold)

h are the scores of the predicted words (tag_vocabulary.py), e their text embeddings, n a vector for "no word"; P
and n are learned. As sounds enter by their words alone, a word that no sound of the training had enters as well, and
training may give words in place of sounds. (The tagger's own embedding beside them named the recordings of training and
led natural sounds astray.) Not from the paper, which says only that the text stays implicit.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.efficientat import EfficientAT, load_efficientat
from icf_avs.encoders.tag_vocabulary import WordTagger

THRESHOLD = 0.15  # a sound whose surest word has less is nothing, in part
PARTS = 6  # words that are handed on one by one
RATE = 32_000  # Hz, of the waveforms


class TaggerEncoder(nn.Module):
    """waveforms [N,160000] at 32 kHz -> (token [N,D], tokens [N,6,D], tags [N,C], how surely each word sounds).

    names: text embeddings of the C words [C,E]. A token leans to one of the likeliest words each, or where fewer are
    heard to none.
    """

    def __init__(self, dim: int, heard: WordTagger, names: Tensor) -> None:
        super().__init__()
        self.heard = heard.requires_grad_(False)
        self.register_buffer("names", names.clone())  # a checkpoint keeps no tensor twice under two names
        self.register_buffer("active_words", torch.ones(len(names)), persistent=False)  # see `only`
        self.project = nn.Linear(names.shape[1], dim)
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, waves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.encode_tags(self.tag(waves))

    def encode_tags(self, tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, of a sound that has these tags [N,C]."""
        strongest, word = tags.topk(min(PARTS, tags.shape[-1]), dim=-1)  # N L
        words = self.project(F.normalize(self.names - self.names.mean(0), dim=-1))[word]  # N L D
        shares = strongest / strongest.sum(-1, keepdim=True).clamp(min=1e-6)
        mixed = torch.einsum("nl,nld->nd", shares, words)
        confidence = (strongest[:, :1] / THRESHOLD).clamp(max=1)  # N 1
        rest = self.nothing * (1 - confidence)
        apart = mixed[:, None] + shares[..., None] * (words - mixed[:, None])
        return self.norm(mixed * confidence + rest), self.norm(apart * confidence[..., None] + rest[:, None]), tags

    @torch.no_grad()
    def tag(self, waves: Tensor) -> Tensor:
        """Waveforms [N,160000] at 32 kHz -> weights of the words [N,C]."""
        return self.heard(waves) * self.active_words

    @property
    def only_words(self) -> list[int] | None:
        """The words that may be predicted, None for all."""
        return None if self.active_words.all() else self.active_words.nonzero()[:, 0].tolist()

    def restrict_to(self, words: Tensor) -> None:
        """Predict no other words from now on: bool [C]."""
        self.active_words.copy_(words)


def load_tagger_encoder(
    dim: int,
    words: tuple[str, ...],
    names: Tensor,
    weights: str | Path | None = None,
    random: bool = False,
    frozen: bool = True,
) -> TaggerEncoder:
    """The encoder for a vocabulary of words with text embeddings [C,E]; weights: see load_efficientat; random: none.

    Raises UserError when the tagger's weights are not to be had, ValueError when the vocabulary lacks an audio word.
    """
    if not frozen:
        raise ValueError("the tagger does not train")
    tagger = EfficientAT(RATE, frozen) if random else load_efficientat(weights, RATE)
    return TaggerEncoder(dim, WordTagger(tagger, words), names)
