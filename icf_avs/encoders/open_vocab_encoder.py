"""The visual encoder "efficientnet-lite0-evidence": dense scores of ImageNet's classes, and how words relate to these.

EfficientNet-Lite0's classifier follows a mean over positions, so it can as well be applied before it (Zhou et al.,
class activation mapping, arXiv 1512.04150). Logits of a class are compared with what that class gets anywhere
(imagenet_logits.csv: mean and standard deviation over positions of composed scenes). A softmax over classes would ask
which class a patch of sky is; a z-score asks whether anything here is unusually like a dog.

A word relates to a class as far as a text encoder puts it near one of the class's names, or near a hypernym: no name of
a Pekinese says "dog". imagenet_hypernyms.csv lists hypernyms with the classes that they cover (runs of WordNet's
order), and people, whom ImageNet does not name, with the classes of what they wear.

audioset.csv has index, mid and display name of AudioSet's 527 sound classes (ontology: CC BY 4.0), in the order of
EfficientAT's logits; imagenet.csv has index and names of ImageNet's 1000 classes, in the order of EfficientNet-Lite0's
logits (no background class); synonyms of one class are joined by ", ".
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from icf_avs.encoders.efficientnet_lite import EfficientNetLite0
from icf_avs.encoders.onednn_layers import fused_conv, pointwise
from icf_avs.encoders.text_encoders import MINILM_DIM, embed_with_minilm
from icf_avs.encoders.voc_segmenter import GRID, VOC_CLASSES, WITHOUT_SEGMENTER, VocSegmenter
from icf_avs.encoders.weights import read_rows
from icf_avs.types import Missing, VisualFeatures

CLASSES = 1000
_HYPERNYM = 0.97  # a class's own name counts a little more than what it is
_WIDTH = 0.15  # of the gate: a class this much further from a word than the nearest one counts 1/e
_SHARP = 0.05  # temperature of the shares
_LARGE = 300  # pixels of a side: the first maps of one larger image leave a processor's cache as it is
_SEGMENTED = 2  # images in a batch of the segmenter: more gain nothing


class DenseClassifier(nn.Module):
    """Last level of the pyramid [N,320,h,w] -> how unusual each class's logit is there, z-scores [N,1000,h,w]."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.head, self.classifier = network.head, network.classifier
        rows = read_rows("imagenet_logits.csv")
        for name in ("mean", "deviation"):
            values = torch.tensor([float(row[name]) for row in rows])
            self.register_buffer(name, values[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, level: Tensor) -> Tensor:
        return (self.logits(level) - self.mean) / self.deviation

    @torch.no_grad()
    def logits(self, level: Tensor) -> Tensor:
        """Logits [N,1000,h,w] before they are compared; their mean over positions is the network's answer."""
        weight = self.classifier.weight[:, :, None, None]
        return pointwise(fused_conv(self.head, level, relu6=True), weight, self.classifier.bias)


class ClassSimilarity(nn.Module):
    """How words bear on the classes. Its buffers travel in a checkpoint, so the text encoder is needed once.

    embed: asks the text encoder now. Without, the buffers are zeros until a state dict fills them.
    """

    def __init__(self, embed: bool = True) -> None:
        super().__init__()
        names = [(name.strip(), (i,)) for i, each in enumerate(imagenet_names()) for name in each.split(",")]
        own, phrases = len(names), names + _hypernyms()
        texts = tuple(text for text, _ in phrases)
        self.register_buffer("phrases", embed_with_minilm(texts) if embed else torch.zeros(len(texts), MINILM_DIM))
        # One row per pair of a phrase and a class that it names.
        rows = [
            (number, index, 1.0 if number < own else _HYPERNYM)
            for number, (_, classes) in enumerate(phrases)
            for index in classes
        ]
        for name, column in zip(("_phrase", "_index", "_factor"), zip(*rows, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column), persistent=False)
        # Some classes are near to any word; that much of their nearness says nothing.
        self.register_buffer("commonness", torch.zeros(CLASSES))
        if embed:
            self.commonness.copy_(self.similarity(embed_with_minilm(audioset_names())).mean(0))

    def similarity(self, words: Tensor) -> Tensor:
        """Unit vectors of words [R,E] -> cosine to the nearest name of each class [R,1000]."""
        each = (words @ self.phrases.T)[:, self._phrase] * self._factor
        nearest = torch.full((len(words), CLASSES), -1.0, device=words.device, dtype=each.dtype)
        return nearest.scatter_reduce(1, self._index.expand(len(words), -1), each, "amax")

    def top_classes(self, words: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` ImageNet classes nearest to each word, which classifier_prior.py weighs.

        Unit vectors of words [R,E] -> classes long [R,count], their gates and shares [R,count].
        """
        top, index = (self.similarity(words) - self.commonness).topk(count, dim=1)
        return index, torch.exp((top - top[:, :1]) / _WIDTH), (top / _SHARP).softmax(1)


@lru_cache(maxsize=1)
def audioset_names() -> tuple[str, ...]:
    """The 527 display names, as "Male speech, man speaking": a comma is part of the name."""
    return tuple(row["name"] for row in read_rows("audioset.csv"))


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """The 1000 classes, each with its synonyms, as "tench, Tinca tinca"; the first is the usual name."""
    return tuple(row["name"] for row in read_rows("imagenet.csv"))


def _hypernyms() -> list[tuple[str, tuple[int, ...]]]:
    """Hypernyms, and the classes that each covers."""
    hypernyms = []
    for row in read_rows("imagenet_hypernyms.csv"):
        runs = [run.partition("-") for run in row["classes"].split()]
        classes = tuple(i for first, _, last in runs for i in range(int(first), int(last or first) + 1))
        hypernyms += [(name, classes) for name in row["names"].split(";")]
    return hypernyms


class OpenVocabEncoder(nn.Module):
    """A frozen encoder, frames uint8 [N,H,W,3] -> levels [N,c,h,w], and `evidence`; in batches that suit a CPU."""

    strides, channels = EfficientNetLite0.strides, EfficientNetLite0.channels

    def __init__(self, network: EfficientNetLite0, segmenter: VocSegmenter | None) -> None:
        super().__init__()
        self.network, self.classifier, self.segmenter = network, DenseClassifier(network), segmenter

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What it does without."""
        return () if self.segmenter is not None else (WITHOUT_SEGMENTER,)

    def evidence(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """The levels, the scores of ImageNet's classes, and the segmenter's probabilities of objects: 0 without a
        segmenter. object_probs: of the same frames at another size, where they are known.
        """
        pyramid = self(frames)
        found = self.segment_objects(frames) if object_probs is None else object_probs
        return VisualFeatures(pyramid, self.classifier(pyramid[-1]), found)

    def segment_objects(self, frames: Tensor) -> Tensor:
        """frames uint8 [N,H,W,3] -> probabilities of objects [N,20,GRID,GRID]."""
        if self.segmenter is None:
            return torch.zeros(len(frames), VOC_CLASSES, GRID, GRID, device=frames.device)
        if frames.device.type != "cpu":
            return self.segmenter(frames)
        return torch.cat([self.segmenter(some) for some in frames.split(_SEGMENTED)])

    def forward(self, frames: Tensor) -> list[Tensor]:
        if frames.device.type != "cpu" or frames.shape[1] <= _LARGE:
            return self.network(frames)
        return [torch.cat(level) for level in zip(*map(self.network, frames.split(1)), strict=True)]
