"""Spatial prior of the open vocabulary: evidence of a classifier and of a segmenter for the words of a sound.

    evidence(p) = b + g agreement(z, p) + u . [e, t](z, p)         b, g, agreement: localization_prior.py; u: learned
    present     = v . max_p [agreement, e, t]                      whether any source is in the image; v: learned

The evidence e of the classifier and t of the segmenter: docs/GUIDED.md. Words are compared with the classes of both in
text space, so a word that no training scene showed is searched for like any other. Maxima over words let each of two
sounding objects score as high as it would alone.

On composed scenes the segmenter misses much that it finds in natural images, so training on them gives it too little
weight; therefore its result also changes the decoded logits. Evidence of another object counts three times for a word
that the segmenter has, because it can tell cats from dogs. For others it may be wrong: it mistakes drums for bicycles.

Evidence is computed for the predicted tags. Only counterfactual sounds, which have no tags, use their reading. Weak
tags of people are weighted down, because they are common. Not from the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.open_vocab_encoder import related_classes
from icf_avs.encoders.voc_segmenter import VOC_CLASSES, voc_names, voc_similarity
from icf_avs.networks.guided_parts.localization_prior import LocalizationPrior, TextImageSimilarity
from icf_avs.networks.guided_parts.vocabulary import Vocabulary

_CLASSIFIER_MAPS, _SEGMENTER_MAPS = 3, 2  # numbers of maps in e and t
_MIN_CLASS_SHARE = 1e-3  # share of a position below which a word counts as absent, by the classifier
_MIN_OBJECT_SHARE = 1 / 255  # the same by the segmenter
_SEGMENTER_LOGIT_SCALE = 1.5  # weight of the segmenter's log odds relative to the decoder's
_CONTRADICTION_SCALE = 2  # added weight of other objects if the segmenter has the class that is meant
_MIN_PROB = 1e-9
_MIN_TOTAL = 1e-6  # total weight of all words if none is predicted
_PERSON_FLOOR = 0.3  # tags of people below this are weighted down


def top_words(reading: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return r_w, index and s_w of the `count` likeliest words, all [R,N,W], of readings r, probabilities [R,N,C]."""
    weight, word = reading.topk(count, dim=-1)
    return weight, word, weight * (weight.sum(-1, keepdim=True) / weight[..., :1].clamp(min=1e-6))


class ClassifierPrior(nn.Module):
    """names: number of names; classes: number of the classifier's classes that are related to each."""

    related: Tensor
    gates: Tensor
    shares: Tensor

    def __init__(self, names: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("related", torch.zeros(names, classes, dtype=torch.int16))
        self.register_buffer("gates", torch.zeros(names, classes, dtype=torch.float16))
        self.register_buffer("shares", torch.zeros(names, classes, dtype=torch.float16))

    def forward(self, top: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
        """`top_words`, scores z [N,K,h,w] -> e [R,N,3,h,w]."""
        weight, word, scaled = top
        related, gates, shares = self.related[word], self.gates[word].float(), self.shares[word].float()
        (repeats, count, words, classes), flat = related.shape, scores.flatten(2)
        class_index = related.long().transpose(0, 1).reshape(count, -1, 1).expand(-1, -1, flat.shape[-1])

        def of_classes(maps: Tensor) -> Tensor:
            return maps.gather(1, class_index).unflatten(1, (repeats, words, classes)).transpose(0, 1)  # R N W G P

        related_scores, probs = of_classes(flat), of_classes(flat.softmax(1))
        relevance = (related_scores * gates[..., None]).amax(3).clamp(min=0)
        agreement = torch.einsum("rnwg,rnwgp->rnwp", shares, related_scores)
        own = torch.einsum("rnwg,rnwgp->rnwp", gates, probs).add(_MIN_CLASS_SHARE).log() - math.log(_MIN_CLASS_SHARE)
        max_relevance = (scaled[..., None] * relevance).amax(2)
        mean_agreement = torch.einsum("rnw,rnwp->rnp", weight, agreement)
        maps = torch.stack([max_relevance, mean_agreement, (scaled[..., None] * own).amax(2)], dim=2)
        return maps.unflatten(-1, scores.shape[-2:])


class SegmenterPrior(nn.Module):
    """names: number of names."""

    fit: Tensor
    kin: Tensor

    def __init__(self, names: int) -> None:
        super().__init__()
        self.register_buffer("fit", torch.zeros(names, VOC_CLASSES, dtype=torch.float16))
        self.register_buffer("kin", torch.zeros(names, VOC_CLASSES, dtype=torch.float16))

    def forward(self, top: tuple[Tensor, Tensor, Tensor], object_probs: Tensor) -> tuple[Tensor, Tensor]:
        """`top_words`, object_probs [N,20,h,w] -> t, and [meant, term of others, for logits], both [R,N,2,h,w]."""
        _, word, scaled = top
        flat, at_most = object_probs.flatten(2), scaled.clamp(max=1)[..., None]
        fit = self.fit[word].float()
        own = torch.einsum("rnwc,ncp->rnwp", fit, flat).clamp(max=1)
        kin = (at_most * self.kin[word].float()).amax(2)  # R N C
        other = torch.einsum("rnc,ncp->rnp", 1 - kin, flat)
        positive_evidence = (scaled[..., None] * torch.log1p(own / _MIN_OBJECT_SHARE)).amax(2)
        maps = torch.stack([positive_evidence, torch.log1p(other / _MIN_OBJECT_SHARE)], dim=2)
        has_class = (at_most * fit).amax((2, 3))[..., None]  # R N 1
        contradiction = (1 + _CONTRADICTION_SCALE * has_class) * torch.log1p(-other.clamp(max=1 - _MIN_OBJECT_SHARE))
        test_maps = torch.stack([(at_most * own).amax(2), contradiction], dim=2)
        return maps.unflatten(-1, object_probs.shape[-2:]), test_maps.unflatten(-1, object_probs.shape[-2:])


def fuse_segmenter(logits: Tensor, segmenter: Tensor) -> Tensor:
    """Fuse mask logits [N,h,w] with the segmenter's maps [N,2,h',w'] of `SegmenterPrior` -> [N,h,w]."""
    meant, contradiction = F.interpolate(segmenter, logits.shape[-2:], mode="bilinear").unbind(1)
    segmenter_logits = _SEGMENTER_LOGIT_SCALE * meant.clamp(_MIN_PROB, 1 - _MIN_OBJECT_SHARE).logit()
    return torch.maximum(logits, segmenter_logits) + contradiction


class EvidenceOutput(NamedTuple):
    """R sounds over N images. evidence [R,N,h,w]: part of the prior, logits; comparison.similarity is the other part.
    present [R,N]: logits that a source of the sound is in the image; segmenter [R,N,2,h',w']: for `fuse_segmenter`.
    """

    comparison: TextImageSimilarity
    evidence: Tensor
    present: Tensor
    segmenter: Tensor


class EvidencePrior(LocalizationPrior):
    """names: number of names; words: number of a sound's words that are searched for; classes: see `ClassifierPrior`.

    The tables of classifier and segmenter are zeros until `init_from_names` or a state dict fills them.
    """

    def __init__(self, dim: int, names: int, words: int, classes: int) -> None:
        super().__init__(dim)
        self.words = min(words, names)
        self.classifier, self.segmenter = ClassifierPrior(names, classes), SegmenterPrior(names)
        self.weigh = nn.Parameter(torch.full((_CLASSIFIER_MAPS,), 0.5))
        self.weigh_objects = nn.Parameter(torch.tensor([0.5, -0.25]))
        self.present = nn.Linear(1 + _CLASSIFIER_MAPS + _SEGMENTER_MAPS, 1)

    def init_from_names(self, names: Tensor) -> None:
        """Relate the names, unit vectors [C,E] of MiniLM on the CPU, to the classes of classifier and segmenter."""
        classifier, segmenter = self.classifier, self.segmenter
        tables = classifier.related, classifier.gates, classifier.shares, segmenter.fit, segmenter.kin
        values = *related_classes(names, classifier.related.shape[1]), *voc_similarity(names)
        for table, value in zip(tables, values, strict=True):
            table.copy_(value)

    def forward(  # type: ignore[override]
        self, tokens: Tensor, sound: Tensor, text: Tensor, vocabulary: Vocabulary, class_scores: Tensor,
        object_probs: Tensor, tag_probs: Sequence[Tensor | None],
    ) -> EvidenceOutput:  # fmt: skip
        """As `LocalizationPrior.forward`, with class_scores [N,K,h',w'], object_probs [N,20,h'',w''] and, for each of
        the R sounds, tag_probs [N,C], or None for a sound without tags.
        """
        comparison = self.compare(tokens, sound, text, vocabulary)
        evidence = self.offset + self.share * comparison.agreement
        maxima = [comparison.agreement.amax((-2, -1))[..., None]]
        reading = comparison.sound_reading.softmax(-1)[..., : len(vocabulary.names)].clone()
        for index, probs in enumerate(tag_probs):
            if probs is not None:
                reading[index] = self._reading_of(probs)
        objects, segmenter = self.segmenter(top_words(reading, self.words), object_probs)
        classes = self.classifier(top_words(reading, self.words), class_scores)  # R N m h' w'
        for maps, weights in ((classes, self.weigh), (objects, self.weigh_objects)):
            weighted = torch.einsum("m,rnmhw->rnhw", weights, maps)
            evidence = evidence + F.interpolate(weighted, evidence.shape[-2:], mode="bilinear", align_corners=False)
            maxima.append(maps.amax((-2, -1)))
        return EvidenceOutput(comparison, evidence, self.present(torch.cat(maxima, dim=-1))[..., 0], segmenter)

    def _reading_of(self, tags: Tensor) -> Tensor:
        """Convert tags [N,C] to a reading."""
        people = self.segmenter.fit[:, [names[0] for names, _ in voc_names()].index("person")] > 0.5
        weighted = torch.where(people, tags * (tags / _PERSON_FLOOR).clamp(max=1), tags)
        total = torch.maximum(weighted.sum(-1, keepdim=True), tags.amax(-1, keepdim=True))
        return weighted / total.clamp(min=_MIN_TOTAL)
