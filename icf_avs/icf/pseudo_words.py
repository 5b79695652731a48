"""Textual inversion (eq. 3): banks of learnable pseudo-words in templates, and the selection of texts by features.

    l in arg max over l_1 .. l_k of (1/k_t) sum_i sim(F, Text(l_i)),  sim the cosine          (eq. 3)

The arg max keeps the k_t texts of a bank of M that match a window best. With it alone, texts that are never selected
would never learn. So the selection is differentiable (straight-through or softmax), and a pull term moves the selected
texts towards the features. The features are detached there, since otherwise everything collapses to one direction.
Before training, features of different clips share most of their direction and would select the same texts. Therefore F
is the features after batch normalisation and a linear layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.batch_norm import FrameBatchNorm, RunningState
from icf_avs.encoders.text_encoders import TextEncoder, text_widths
from icf_avs.settings import MIT

TEMPLATES = {
    "video": "A video of [ ]", "segment": "A segment of [ ]", "frame": "A frame of [ ]", "audio": "An audio of [ ]",
}  # fmt: skip
# Pseudo-words start from word embeddings: CLIP's have a spread of .014, and pseudo-words that start far away stay away.
INITIAL_WORDS = (
    "person", "voice", "dog", "bark", "bird", "song", "car", "engine", "guitar", "strings", "drum", "beat", "water",
    "wind", "machine", "noise",
)  # fmt: skip


class MatchedTexts(NamedTuple):
    """Texts selected for each window. texts [B,S,k_t,dim]: the best matches; pull [B,S]: pull term; revised
    [B,S,R,k_t,dim], if requested: R groups of k_t texts with other words in the template, best first, no gradient.
    """

    texts: Tensor
    pull: Tensor
    revised: Tensor | None


class PseudoWordBank(RunningState, nn.Module):
    """Bank of one level. features: width of the matched features; encoder: None for inference with learnt texts."""

    texts: Tensor

    def __init__(self, level: str, encoder: TextEncoder | None, settings: MIT, features: int) -> None:
        super().__init__()
        self.settings, self.template = settings, TEMPLATES[level]
        token_dim, text_dim = text_widths(settings.encoders, level) if encoder is None else encoder.widths
        self.words = nn.Parameter(torch.zeros(settings.prompts, settings.pseudo_words, token_dim))
        self._encoder: list[TextEncoder] = []  # in a list, so that it is no submodule and in no checkpoint
        if encoder is not None:
            self.attach(encoder)
        self.normalize = FrameBatchNorm(features) if settings.batch_norm else None
        self.match, self.project = nn.Linear(features, text_dim), nn.Linear(text_dim, settings.dim)
        self.register_buffer("texts", torch.zeros(settings.prompts, text_dim))
        self.steps = 0

    @torch.no_grad()
    def attach(self, encoder: TextEncoder) -> None:
        """Set the text encoder, and initialise the pseudo-words from its word embeddings."""
        self._encoder, count = [encoder], self.words.shape[0] * self.words.shape[1]
        initial = torch.stack([encoder.word_embedding(INITIAL_WORDS[i % len(INITIAL_WORDS)]) for i in range(count)])
        initial = initial + 0.1 * initial.std() * torch.randn_like(initial)
        self.words.copy_(initial.view_as(self.words))

    def forward(self, features: Tensor, valid: Tensor, revise: bool = False) -> MatchedTexts:
        """Select texts for windows with features [B,S,F] and valid [B,S] bool. With softmax selection there is one text
        for each window, the weighted mean of all. revise: whether to return revised texts.
        """
        settings, texts = self.settings, self._encode_texts()
        if self.normalize is not None:
            features = self.normalize(features[..., None, None], valid)[..., 0, 0]
        unit_texts, matched = F.normalize(texts, dim=-1), F.normalize(self.match(features), dim=-1)
        similarity = matched @ unit_texts.T
        count = min(settings.chosen, len(texts))
        best = similarity.topk(count, dim=-1).indices
        soft = (similarity / settings.selection_temperature).softmax(-1)[..., None, :]
        weights = soft
        if settings.selection == "straight-through":
            weights = F.one_hot(best, len(texts)).to(similarity.dtype) + soft - soft.detach()
        pull = 1 - (matched.detach() @ unit_texts.T).gather(-1, best).mean(-1)
        revised = None
        if revise:
            with torch.no_grad():
                other_indices = similarity.argsort(-1, descending=True)[..., count : len(texts) // count * count]
                revised = self.project(texts[other_indices]).unflatten(-2, (-1, count))
        return MatchedTexts(self.project(weights @ texts), pull, revised)

    @property
    def mean_text(self) -> Tensor:
        """Mean of the bank's cached texts [dim]: the component that they share, which is most of each text."""
        return self.project(self.texts.mean(0))

    def _encode_texts(self) -> Tensor:
        """Return texts [M,E]. In training they are encoded with gradient every n-th step and cached in between. The
        cache is part of the state, so that a resumed run continues identically.
        """
        must_encode = not self.steps or (self.training and self.steps % self.settings.encode_every == 0)
        self.steps += 1 if self.training else 0
        if not must_encode or not self._encoder:
            return self.texts.clone()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            texts = self._encoder[0](self.template, self.words)
        self.texts.copy_(texts.detach())
        return texts

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps, device=self.texts.device)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)
