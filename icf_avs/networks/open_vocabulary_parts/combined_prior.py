"""Spatial prior of the open vocabulary, with evidence of a classifier and a segmenter for the words of a sound.

    text_prior(p) = max_n cos(k(p), q(T_n)) s
    evidence(p)   = b + g agreement(z, p) + u . [e, t](z, p)                          k, q maps, s, b, g, u: learned
    present       = v . max_p [agreement, e, t]                                       v learned

text_prior, b, g, agreement: localization_prior.py. e: classifier_prior.py; t: segmenter_prior.py. `present` says
whether any source of the sound is in the image. Evidence is computed for the predicted tags. Only counterfactual
sounds, which have no tags, use their reading: training names many objects by one general word, so most of a reading of
"cat" becomes "animal". Weak tags of people are weighted down, because they are common. Not from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.networks.guided_parts.localization_prior import LocalizationPrior
from icf_avs.networks.guided_parts.vocabulary import Vocabulary
from icf_avs.networks.open_vocabulary_parts.classifier_prior import MAPS, ClassifierPrior
from icf_avs.networks.open_vocabulary_parts.segmenter_prior import OBJECT_MAPS, SegmenterPrior

_MIN_TOTAL = 1e-6  # total weight of all words if none is predicted
_PERSON_FLOOR = 0.3  # tags of people below this are weighted down


class EvidenceOutput(NamedTuple):
    """R sounds over N images. text_prior, evidence [R,N,h,w]: the two parts of the prior, logits; present [R,N]: logits
    that a source of the sound is in the image; segmenter [R,N,2,h',w']: for segmenter_prior.py; pixel_reading
    [N,M,h,w]: logits of each position's reading.
    """

    text_prior: Tensor
    evidence: Tensor
    present: Tensor
    segmenter: Tensor
    pixel_reading: Tensor


class EvidencePrior(LocalizationPrior):
    def __init__(self, dim: int, classifier: ClassifierPrior, segmenter: SegmenterPrior) -> None:
        super().__init__(dim)
        self.classifier, self.segmenter = classifier, segmenter
        self.weigh = nn.Parameter(torch.full((MAPS,), 0.5))
        self.weigh_objects = nn.Parameter(torch.tensor([0.5, -0.25]))
        self.present = nn.Linear(1 + MAPS + OBJECT_MAPS, 1)

    def forward(  # type: ignore[override]
        self, tokens: Tensor, sound: Tensor, text: Tensor, vocabulary: Vocabulary, class_scores: Tensor,
        object_probs: Tensor, tag_probs: Sequence[Tensor | None],
    ) -> EvidenceOutput:  # fmt: skip
        """As `LocalizationPrior.forward`, with class_scores [N,K,h',w'], object_probs [N,20,h'',w''] and, for each of
        the R sounds, tag_probs [N,C], or None for a sound without tags.
        """
        comparison = self.compare(tokens, sound, text, vocabulary)
        evidence, maxima = (
            self.offset + self.share * comparison.agreement,
            [comparison.agreement.amax((-2, -1))[..., None]],
        )
        reading = comparison.sound_reading.softmax(-1)[..., : len(vocabulary.names)].clone()
        for index, probs in enumerate(tag_probs):
            if probs is not None:
                reading[index] = self._reading_from_tags(probs)
        objects, segmenter = self.segmenter(reading, object_probs)
        classes = self.classifier(reading, class_scores)  # R N m h' w'
        for maps, weights in ((classes, self.weigh), (objects, self.weigh_objects)):
            weighted = torch.einsum("m,rnmhw->rnhw", weights, maps)
            evidence = evidence + F.interpolate(weighted, evidence.shape[-2:], mode="bilinear", align_corners=False)
            maxima.append(maps.amax((-2, -1)))
        present = self.present(torch.cat(maxima, dim=-1))[..., 0]
        return EvidenceOutput(comparison.similarity, evidence, present, segmenter, comparison.pixel_reading)

    def _reading_from_tags(self, tag_probs: Tensor) -> Tensor:
        """Convert tags [N,C] to a reading."""
        weighted_tags = torch.where(
            self.segmenter.people, tag_probs * (tag_probs / _PERSON_FLOOR).clamp(max=1), tag_probs
        )
        total = torch.maximum(weighted_tags.sum(-1, keepdim=True), tag_probs.amax(-1, keepdim=True))
        return weighted_tags / total.clamp(min=_MIN_TOTAL)
