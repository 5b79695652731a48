"""Prior from an object segmenter: where the image shows objects named by a sound's words, and where other objects.

    own(w, p)    = sum_c fit(w, c) P_c(p)
    meant(r, p)  = max_w min(1, s_w) own(w, p)                                  w, s_w as in classifier_prior.py
    other(r, p)  = sum_c P_c(p) (1 - max_w min(1, s_w) kin(w, c))
    t(r, p)      = [max_w s_w log(1 + own(w, p) / m), log(1 + other(r, p) / m)]       for the prior; m: _MIN_SHARE
    has_class(r) = max_w min(1, s_w) max_c fit(w, c)
    logit(p)    <- max(logit(p), s log(meant / (1 - meant))) + (1 + c has_class) log(1 - other)    at test

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
_MIN_SHARE = 1 / 255
_SEGMENTER_LOGIT_SCALE = 1.5  # weight of the segmenter's log odds relative to the decoder's
_CONTRADICTION_SCALE = 2  # added weight of other objects if the segmenter has the class that is meant
_MIN_PROB = 1e-9


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
        positive_evidence = (scaled[..., None] * torch.log1p(own / _MIN_SHARE)).amax(2)
        maps = torch.stack([positive_evidence, torch.log1p(other / _MIN_SHARE)], dim=2)
        has_class = (at_most * fit).amax((2, 3))[..., None]  # R N 1
        contradiction = (1 + _CONTRADICTION_SCALE * has_class) * torch.log1p(-other.clamp(max=1 - _MIN_SHARE))
        test_maps = torch.stack([(at_most * own).amax(2), contradiction], dim=2)
        size = object_probs.shape[-2:]
        return maps.unflatten(-1, size), test_maps.unflatten(-1, size)


def fuse_segmenter(logits: Tensor, segmenter: Tensor) -> Tensor:
    """Fuse mask logits [N,h,w] with the segmenter's maps [N,2,h',w'] of `SegmenterPrior` -> [N,h,w]."""
    meant, contradiction = F.interpolate(segmenter, logits.shape[-2:], mode="bilinear").unbind(1)
    segmenter_logits = _SEGMENTER_LOGIT_SCALE * meant.clamp(_MIN_PROB, 1 - _MIN_SHARE).logit()
    return torch.maximum(logits, segmenter_logits) + contradiction
