"""Prior from an object segmenter: where the image shows objects named by a sound's words, and where other objects.

    own(w, p)   = sum_c fit(w, c) P_c(p)
    meant(r, p) = max_w min(1, s_w) own(w, p)                                   w, s_w as in classifier_prior.py
    other(r, p) = sum_c P_c(p) (1 - max_w min(1, s_w) kin(w, c))
    t(r, p)     = [max_w s_w log(1 + own(w, p) / _LEAST), log(1 + other(r, p) / _LEAST)]          for the prior
    named(r)    = max_w min(1, s_w) max_c fit(w, c)
    logit(p)   <- max(logit(p), s log(meant / (1 - meant))) + (1 + c named) log(1 - other)   at test

P_c is the share of the segmenter's class c at a position, 0 for all classes without a segmenter; fit and kin relate
words to the classes (encoders/voc_segmenter.py). The segmenter has twenty object classes, including people, who are no
ImageNet class. For any other word it shows where the object is not. On composed scenes it misses much that it finds in
natural images, so training on them gives it too little weight; therefore its result also changes the decoded logits.
Evidence of another object counts three times for a word that the segmenter has, because it can tell cats from dogs. For
other words it may be wrong: it mistakes drums for bicycles. Not from the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.voc_segmenter import VOC_CLASSES, voc_names
from icf_avs.networks.open_vocabulary_parts.classifier_prior import top_words

OBJECT_MAPS = 2  # for, against
_LEAST = 1 / 255
_SEGMENTER_LOGIT_SCALE = 1.5  # weight of the segmenter's log odds relative to the decoder's
_CONTRADICTION_SCALE = 2  # added weight of other objects if the segmenter has the class that is meant
_NONE = 1e-9


class SegmenterPrior(nn.Module):
    """vocabulary: number of names; words: number of a reading's words that are searched for.

    The tables are zeros until `init_from_names` or a state dict fills them.
    """

    fit: Tensor
    kin: Tensor

    def __init__(self, vocabulary: int, words: int) -> None:
        super().__init__()
        self.words = min(words, vocabulary)
        self.register_buffer("fit", torch.zeros(vocabulary, VOC_CLASSES, dtype=torch.float16))
        self.register_buffer("kin", torch.zeros(vocabulary, VOC_CLASSES, dtype=torch.float16))

    def init_from_names(self, fit: Tensor, kin: Tensor) -> None:
        """Fill the tables for the names of the vocabulary, both [C,20] (voc_segmenter.voc_similarity)."""
        self.fit.copy_(fit)
        self.kin.copy_(kin)

    @property
    def people(self) -> Tensor:
        """Return [C] bool: names that mean people."""
        person = next(number for number, (names, _) in enumerate(voc_names()) if "person" in names)
        return self.fit[:, person] > 0.5

    def forward(self, reading: Tensor, object_probs: Tensor) -> tuple[Tensor, Tensor]:
        """reading, probabilities over at least the vocabulary [R,N,M]; object_probs [N,20,h,w] -> t, and [meant, term
        to add to the logits for other objects], both [R,N,2,h,w].
        """
        _, word, scaled = top_words(reading[..., : len(self.fit)], self.words)  # R N W
        flat, at_most = object_probs.flatten(2), scaled.clamp(max=1)[..., None]
        fit = self.fit[word].float()
        own = torch.einsum("rnwc,ncp->rnwp", fit, flat).clamp(max=1)
        kin = (at_most * self.kin[word].float()).amax(2)  # R N C
        other = torch.einsum("rnc,ncp->rnp", 1 - kin, flat)
        yes = (scaled[..., None] * torch.log1p(own / _LEAST)).amax(2)
        maps = torch.stack([yes, torch.log1p(other / _LEAST)], dim=2)
        named = (at_most * fit).amax((2, 3))[..., None]  # R N 1
        against = (1 + _CONTRADICTION_SCALE * named) * torch.log1p(-other.clamp(max=1 - _LEAST))
        found = torch.stack([(at_most * own).amax(2), against], dim=2)
        size = object_probs.shape[-2:]
        return maps.unflatten(-1, size), found.unflatten(-1, size)


def fuse_segmenter(logits: Tensor, segmenter: Tensor) -> Tensor:
    """Fuse mask logits [N,h,w] with the segmenter's maps [N,2,h',w'] of `SegmenterPrior` -> [N,h,w]."""
    meant, against = F.interpolate(segmenter, logits.shape[-2:], mode="bilinear").unbind(1)
    sure = _SEGMENTER_LOGIT_SCALE * meant.clamp(_NONE, 1 - _LEAST).logit()
    return torch.maximum(logits, sure) + against
