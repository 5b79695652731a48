"""The implicit vocabulary of MIT: the words in which all implicit texts are expressed.

    W = [E P ; F]            E [C,384] frozen embeddings of the class names, P a projection, F free words
    r(h) = softmax(h W^T / (|h| |W| tau))                                        reading of a token h
    text(h) = r(h) W + R h                                                       a token near the text manifold
    agreement(z, p) = log sum_w r_w(z) r_w(k(p))                                 a sound and a position p, word by word

Not from the paper (docs/GUIDED.md), which says only that the text stays implicit. The first free word means "nothing
sounds".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.networks.temperature import log_temperature, temperature


class Vocabulary(nn.Module):
    """names: [C, E] embeddings of the class names, kept as a buffer; start: tau before training."""

    names: Tensor

    def __init__(self, names: Tensor, free_words: int, dim: int, start: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("names", names)
        self.project = nn.Linear(names.shape[1], dim)
        # One call, here and in other parts: multiplying tensors on the device "meta" would import all of torch.compile,
        # which takes half of the loading time of a checkpoint.
        self.free = nn.Parameter(torch.normal(0.0, 0.5, (free_words, dim)))
        self.log_temperature = log_temperature(start)
        self.residual = nn.Linear(dim, dim)

    @property
    def silence(self) -> int:
        """Index of the free word for "nothing sounds"."""
        return self.names.shape[0]

    def synonyms(self, cosine: float) -> Tensor:
        """Return [C,C] bool: names that may mean the same, with embeddings above `cosine`; each also with itself."""
        return self.names @ self.names.T > cosine

    def principal_axes(self) -> Tensor:
        """Return [D,E]: orthonormal directions in which the names differ most; a projected name keeps about its length.

        If the projections of audio and of vocabulary both start from them, words that are not trained also get a text.
        """
        centred = F.normalize(self.names - self.names.mean(0), dim=-1)
        return torch.linalg.svd(centred, full_matrices=False).Vh[: self.project.out_features]

    def words(self) -> Tensor:
        """Return W [M, D]: names first, then free words."""
        # MiniLM vectors of related names share a large common component; without the mean they can be distinguished.
        return torch.cat([self.project(F.normalize(self.names - self.names.mean(0), dim=-1)), self.free])

    def similarity(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        """tokens [..., D] -> [..., M] logits of the reading; words: the result of words(), if already computed."""
        words = self.words() if words is None else words
        return F.normalize(tokens, dim=-1) @ F.normalize(words, dim=-1).T / temperature(self.log_temperature)

    def read(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        """tokens [..., D] -> implicit text [..., D]."""
        words = self.words() if words is None else words
        return self.similarity(tokens, words).softmax(-1) @ words + self.residual(tokens)

    def agreement(self, sound: Tensor, pixels: Tensor) -> Tensor:
        """Log-probability that a sound and a position are read as the same word, "nothing sounds" excluded.

        Logits of readings, sound [R,N,M] and pixels [N,h,w,M] -> [R,N,h,w], at least -7. Each of several sources agrees
        with its positions; no position has to match the mixture of all their words.
        """
        audible = torch.arange(sound.shape[-1], device=sound.device) != self.silence
        return (torch.einsum("rnm,nhwm->rnhw", sound.softmax(-1) * audible, pixels.softmax(-1)) + math.exp(-7)).log()
