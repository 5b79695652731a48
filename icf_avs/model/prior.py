"""MIT's prior guidance: a coarse map of where the picture shows what the text says, before any mask is decoded.

    prior(p) = max_n cos(k(p), q(T_n)) s + b + g agreement(z, p) + u . [e, t](z, p)     k, q maps, s, b, g, u: learned
    present  = v . max_p [agreement, e, t]                                              v learned

The first part compares a position with the whole of a frame's implicit text, the second sound and position word by word
(vocabulary.py), the third is the evidence for the words, where there is any: e of a classifier (word_evidence.py), t of
a segmenter (thing_evidence.py); then a sound is also asked whether anything of it is in the picture at all. Evidence is
asked for the words that are heard, where the audio encoder tells them, and for the reading of SC's rivals, which have
no words: training asks for many things by one general word, and so most of a reading of "cat" becomes "animal". People
who are heard faintly are searched for in part, for someone is heard faintly in many a sound. Ours; the paper says that
implicit text gives prior guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.backbones.linear import PointConv
from icf_avs.model.thing_evidence import THING_MAPS, ThingEvidence
from icf_avs.model.vocabulary import Vocabulary
from icf_avs.model.word_evidence import MAPS, WordEvidence

_NOTHING = 1e-6  # weight of all words together, where none is heard
_SURELY = 0.3  # people of whom less is heard are searched for the less


class Guidance(NamedTuple):
    """R sounds over N pictures. prior [R,N,h,w] logits; seen [N,M,h,w] logits of every position's reading. Where there
    is evidence, the part of the prior that follows from words alone stands apart, evidence [R,N,h,w]; present [R,N]
    are logits of whether anything of a sound is in the picture, and things [R,N,2,h',w'] what the segmenter says of it.
    """

    prior: Tensor
    seen: Tensor
    evidence: Tensor | None = None
    present: Tensor | None = None
    things: Tensor | None = None


class Prior(nn.Module):
    """evidence, things: both, or neither."""

    def __init__(self, dim: int, evidence: WordEvidence | None = None, things: ThingEvidence | None = None) -> None:
        super().__init__()
        self.key = PointConv(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(-3.0))
        self.share = nn.Parameter(torch.tensor(0.5))
        self.evidence, self.things = evidence, things
        if evidence is not None:
            self.weigh = nn.Parameter(torch.full((MAPS,), 0.5))
            self.weigh_things = nn.Parameter(torch.tensor([0.5, -0.25]))
            self.present = nn.Linear(1 + MAPS + THING_MAPS, 1)

    def forward(
        self, tokens: Tensor, sound: Tensor, text: Tensor, vocabulary: Vocabulary,
        scores: Tensor | None = None, shares: Tensor | None = None, said: Mapping[int, Tensor] = MappingProxyType({}),
    ) -> Guidance:  # fmt: skip
        """R sounds over the same N pictures: tokens [N,D,h,w], sound z [R,N,D], text of the frame [R,N,n,D], and where
        the prior was built with evidence scores z of all classes [N,K,h',w'] and shares of things [N,20,h'',w''].
        said: number of a sound whose words are known -> their weights [N,C]; evidence is asked for these then.
        """
        keys = self.key(tokens)
        likeness = torch.einsum("rnqd,ndhw->rnqhw", F.normalize(self.query(text), dim=-1), F.normalize(keys, dim=1))
        words = vocabulary.words()
        seen = vocabulary.similarity(keys.permute(0, 2, 3, 1), words)
        heard = vocabulary.similarity(sound, words)
        agreement = vocabulary.agreement(heard, seen)
        named, seen = likeness.amax(2) * self.scale, seen.permute(0, 3, 1, 2)
        if self.evidence is None:
            return Guidance(named + self.offset + self.share * agreement, seen)
        words, best = self.offset + self.share * agreement, [agreement.amax((-2, -1))[..., None]]
        reading = heard.softmax(-1)[..., : len(vocabulary.names)].clone()
        for sound_number, weights in said.items():
            counted = torch.where(self.things.people, weights * (weights / _SURELY).clamp(max=1), weights)
            whole = torch.maximum(counted.sum(-1, keepdim=True), weights.amax(-1, keepdim=True))
            reading[sound_number] = counted / whole.clamp(min=_NOTHING)
        thing_maps, things = self.things(reading, shares)
        for maps, weigh in (
            (self.evidence(reading, scores), self.weigh),
            (thing_maps, self.weigh_things),
        ):  # R N m h' w'
            weighed = torch.einsum("m,rnmhw->rnhw", weigh, maps)
            words = words + F.interpolate(weighed, words.shape[-2:], mode="bilinear", align_corners=False)
            best.append(maps.amax((-2, -1)))
        return Guidance(named, seen, words, self.present(torch.cat(best, dim=-1))[..., 0], things)
