"""MIT's prior from an image classifier: where the image shows the words of a sound, by the classifier's classes.

    rel(w, p) = max_c g(w, c) max(z_c(p), 0)           evidence at a position for the best class of a word
    agr(w, p) = sum_c s(w, c) z_c(p)                   evidence of all its classes, for and against
    own(w, p) = log sum_c g(w, c) softmax(z(p))_c      the same relative to all other classes
    e(r, p)   = [max_w s_w rel(w, p), sum_w r_w agr(w, p), max_w s_w own(w, p)]      w the likeliest words of r
    s_w       = r_w sum(r) / max(r)

The first and the third are a maximum, so that each of two sounding objects scores as high as it would alone. z is the
z-score of a class's logit at p (open_vocab_encoder.py); gates g and shares s say how close a text encoder puts a word
to the class names. So the words of the sound and the classes of the image are compared in text space, and a word that
no training scene showed is searched for like any other. Not from the paper.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from icf_avs.encoders.open_vocab_encoder import ClassSimilarity

MAPS = 3  # relevance, agreement, own
_MIN_SHARE = 1e-3  # share of a position below which a word counts as absent


def top_words(reading: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities [...,C] -> r_w, index and s_w of the `count` likeliest words, all [...,count]."""
    weight, word = reading.topk(count, dim=-1)
    return weight, word, weight * (weight.sum(-1, keepdim=True) / weight[..., :1].clamp(min=1e-6))


class ClassifierPrior(nn.Module):
    """vocabulary: number of names; words: number of a reading's words that are searched for; classes: number per word.

    The tables are zeros until `init_from_names` or a state dict fills them.
    """

    related: Tensor
    gates: Tensor
    shares: Tensor

    def __init__(self, vocabulary: int, words: int, classes: int) -> None:
        super().__init__()
        self.words = min(words, vocabulary)
        self.register_buffer("related", torch.zeros(vocabulary, classes, dtype=torch.int16))
        self.register_buffer("gates", torch.zeros(vocabulary, classes, dtype=torch.float16))
        self.register_buffer("shares", torch.zeros(vocabulary, classes, dtype=torch.float16))

    def init_from_names(self, classes: ClassSimilarity, names: Tensor) -> None:
        """Fill the tables for the names of the vocabulary, unit vectors [C,E]."""
        top = classes.top_classes(names, self.related.shape[1])
        for table, values in zip((self.related, self.gates, self.shares), top, strict=True):
            table.copy_(values)

    def forward(self, reading: Tensor, scores: Tensor) -> Tensor:
        """reading, probabilities over at least the vocabulary [R,N,M]; scores z [N,K,h,w] -> e [R,N,3,h,w]."""
        weight, word, scaled = top_words(reading[..., : len(self.related)], self.words)  # R N W
        related, gates, shares = self.related[word].long(), self.gates[word].float(), self.shares[word].float()
        repeats, count, words, classes = related.shape
        class_index = related.transpose(0, 1).reshape(count, -1, 1).expand(-1, -1, scores.shape[-2] * scores.shape[-1])

        def of_classes(maps: Tensor) -> Tensor:
            return maps.gather(1, class_index).unflatten(1, (repeats, words, classes)).transpose(0, 1)  # R N W G P

        flat = scores.flatten(2)
        related_scores, probs = of_classes(flat), of_classes(flat.softmax(1))
        relevance = (related_scores * gates[..., None]).amax(3).clamp(min=0)
        agreement = torch.einsum("rnwg,rnwgp->rnwp", shares, related_scores)
        own = torch.einsum("rnwg,rnwgp->rnwp", gates, probs).add(_MIN_SHARE).log() - math.log(_MIN_SHARE)
        max_relevance, mean_agreement = (
            (scaled[..., None] * relevance).amax(2),
            torch.einsum("rnw,rnwp->rnp", weight, agreement),
        )
        maps = torch.stack([max_relevance, mean_agreement, (scaled[..., None] * own).amax(2)], dim=2)
        return maps.unflatten(-1, scores.shape[-2:])
