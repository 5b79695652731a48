"""The visual encoder "efficientnet-lite0-evidence": dense ImageNet class scores, and similarity of words to classes.

EfficientNet-Lite0's classifier follows average pooling, so it can also be applied at each position (Zhou et al., class
activation mapping, arXiv 1512.04150). The logits of each class are normalised by the mean and standard deviation of
that class over positions of composed scenes (imagenet_logits.csv). Such a z-score tells whether a class is unusually
likely at a position; a softmax would assign some class to every position, even to sky.

The similarity of a word to a class is the text-embedding similarity to the closest of the class's names and hypernyms
(no name of the class Pekinese contains "dog"). imagenet_hypernyms.csv lists hypernyms with the classes that they cover
(runs of WordNet's order), and people, who are no ImageNet class, with the classes of what they wear.

audioset.csv (ontology: CC BY 4.0) and imagenet.csv have the names in the order of the logits of EfficientAT and of
EfficientNet-Lite0, which has no background class.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from icf_avs.encoders.efficientnet_lite import EfficientNetLite0
from icf_avs.encoders.onednn_layers import fused_conv, pointwise
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.voc_segmenter import GRID, VOC_CLASSES, WITHOUT_SEGMENTER, VocSegmenter
from icf_avs.encoders.weights import read_rows
from icf_avs.types import VisualFeatures

CLASSES = 1000
_HYPERNYM_FACTOR = 0.97  # factor on the similarity to a hypernym, so that a class name counts a little more
_GATE_WIDTH = 0.15  # width of the gate: a class with this much less similarity than the nearest one has weight 1/e
_SHARE_TEMPERATURE = 0.05  # softmax temperature of the shares
_MAX_BATCHED_SIDE = 300  # pixels; above it, the first feature maps of one image already exceed the processor's cache
_SEGMENTER_BATCH = 2  # batch size of the segmenter on a CPU; larger is no faster


class DenseClassifier(nn.Module):
    """Classifier of positions: last pyramid level [N,320,h,w] -> z-scores of the class logits [N,1000,h,w]."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.head, self.classifier = network.head, network.classifier
        rows = read_rows("imagenet_logits.csv")
        for name in ("mean", "deviation"):
            values = torch.tensor([float(row[name]) for row in rows])
            self.register_buffer(name, values[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, level: Tensor) -> Tensor:
        weight = self.classifier.weight[:, :, None, None]
        logits = pointwise(fused_conv(self.head, level, relu6=True), weight, self.classifier.bias)
        return (logits - self.mean) / self.deviation


def class_similarity(words: Tensor) -> Tensor:
    """Return the cosine similarity of words, unit vectors [R,E], to the nearest name of each class [R,1000]."""
    vectors, phrase, index, factor = _phrases()
    each = (words @ vectors.T)[:, phrase] * factor
    return each.new_full((len(words), CLASSES), -1.0).scatter_reduce(1, index.expand(len(words), -1), each, "amax")


def related_classes(words: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `count` classes nearest to each word, unit vectors [R,E]: indices, gates and shares, all [R,count]."""
    # Some classes are similar to every word; their mean similarity is subtracted.
    commonness = class_similarity(embed_with_minilm(audioset_names())).mean(0)
    top, index = (class_similarity(words) - commonness).topk(count, dim=1)
    return index, torch.exp((top - top[:, :1]) / _GATE_WIDTH), (top / _SHARE_TEMPERATURE).softmax(1)


@lru_cache(maxsize=1)
def _phrases() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of all class names and hypernyms [P,E], and for each pair of one of them and a class that it names:
    their indices, and the factor on the similarity.
    """
    phrases = [(name.strip(), (i,), 1.0) for i, names in enumerate(imagenet_names()) for name in names.split(",")]
    for row in read_rows("imagenet_hypernyms.csv"):
        runs = [run.partition("-") for run in row["classes"].split()]
        classes = tuple(i for first, _, last in runs for i in range(int(first), int(last or first) + 1))
        phrases += [(name, classes, _HYPERNYM_FACTOR) for name in row["names"].split(";")]
    pairs = [(number, index, factor) for number, (_, classes, factor) in enumerate(phrases) for index in classes]
    vectors = embed_with_minilm(tuple(text for text, *_ in phrases))
    return vectors, *(torch.tensor(column, device=vectors.device) for column in zip(*pairs, strict=True))


def audioset_names() -> tuple[str, ...]:
    """Return the 527 display names of AudioSet. A comma is part of a name, as in "Male speech, man speaking"."""
    return tuple(row["name"] for row in read_rows("audioset.csv"))


def imagenet_names() -> tuple[str, ...]:
    """Return the 1000 ImageNet classes, each with synonyms, as "tench, Tinca tinca"; the first is the usual name."""
    return tuple(row["name"] for row in read_rows("imagenet.csv"))


class OpenVocabEncoder(nn.Module):
    """Frozen encoder: frames uint8 [N,H,W,3] -> levels [N,c,h,w], and `evidence`. Splits batches on a CPU for speed."""

    strides, channels = EfficientNetLite0.strides, EfficientNetLite0.channels

    def __init__(self, network: EfficientNetLite0, segmenter: VocSegmenter | None) -> None:
        super().__init__()
        self.network, self.classifier, self.segmenter = network, DenseClassifier(network), segmenter
        self.missing = (WITHOUT_SEGMENTER,) if segmenter is None else ()  # parts that are unavailable

    def evidence(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """Return the levels, ImageNet class scores, and object probabilities of the segmenter (0 without a segmenter).
        object_probs: use these, computed from the same frames at another size.
        """
        pyramid = self(frames)
        if object_probs is None and self.segmenter is None:
            object_probs = torch.zeros(len(frames), VOC_CLASSES, GRID, GRID, device=frames.device)
        elif object_probs is None:
            batch = _SEGMENTER_BATCH if frames.device.type == "cpu" else len(frames)
            object_probs = torch.cat([self.segmenter(part) for part in frames.split(batch)])
        return VisualFeatures(pyramid, self.classifier(pyramid[-1]), object_probs)

    def forward(self, frames: Tensor) -> list[Tensor]:
        if frames.device.type != "cpu" or frames.shape[1] <= _MAX_BATCHED_SIDE:
            return self.network(frames)
        return [torch.cat(level) for level in zip(*map(self.network, frames.split(1)), strict=True)]
