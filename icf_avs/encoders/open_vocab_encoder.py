"""The visual encoder "efficientnet-lite0-evidence": dense ImageNet class scores, and similarity of words to classes.

EfficientNet-Lite0's classifier follows average pooling, so it can also be applied at each position (Zhou et al., class
activation mapping, arXiv 1512.04150). The logits of each class are normalised by the mean and standard deviation of
that class over positions of composed scenes (imagenet_logits.csv). Such a z-score tells whether a class is unusually
likely at a position; a softmax would assign some class to every position, even to sky.

The similarity of a word to a class is the text-embedding similarity to the closest of the class's names and hypernyms
(no name of the class Pekinese contains "dog"). imagenet_hypernyms.csv lists hypernyms with the classes that they cover
(runs of WordNet's order), and people, who are no ImageNet class, with the classes of what they wear.

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
_HYPERNYM_FACTOR = 0.97  # factor on the similarity to a hypernym, so that a class name counts a little more
_GATE_WIDTH = 0.15  # width of the gate: a class with this much less similarity than the nearest one has weight 1/e
_SHARE_TEMPERATURE = 0.05  # softmax temperature of the shares
_MAX_BATCHED_SIDE = (
    300  # pixels; above it, the first feature maps of a single image already exceed the processor's cache
)
_SEGMENTER_BATCH = 2  # batch size of the segmenter on a CPU; larger is no faster


class DenseClassifier(nn.Module):
    """Dense classifier: last pyramid level [N,320,h,w] -> z-scores of the class logits [N,1000,h,w]."""

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
        """Return the dense logits [N,1000,h,w]; their mean over positions is the output of the original network."""
        weight = self.classifier.weight[:, :, None, None]
        return pointwise(fused_conv(self.head, level, relu6=True), weight, self.classifier.bias)


class ClassSimilarity(nn.Module):
    """Similarity of words to ImageNet's classes. Its buffers are saved in checkpoints; text is encoded only once.

    embed: run the text encoder now. Otherwise the buffers are zeros until a state dict is loaded.
    """

    def __init__(self, embed: bool = True) -> None:
        super().__init__()
        names = [(name.strip(), (i,)) for i, each in enumerate(imagenet_names()) for name in each.split(",")]
        num_class_names, phrases = len(names), names + _hypernyms()
        texts = tuple(text for text, _ in phrases)
        self.register_buffer("phrases", embed_with_minilm(texts) if embed else torch.zeros(len(texts), MINILM_DIM))
        # One row per pair of a phrase and a class it names.
        rows = [
            (number, index, 1.0 if number < num_class_names else _HYPERNYM_FACTOR)
            for number, (_, classes) in enumerate(phrases)
            for index in classes
        ]
        for name, column in zip(("_phrase", "_index", "_factor"), zip(*rows, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column), persistent=False)
        # Some classes are similar to every word; their mean similarity is subtracted.
        self.register_buffer("commonness", torch.zeros(CLASSES))
        if embed:
            self.commonness.copy_(self.similarity(embed_with_minilm(audioset_names())).mean(0))

    def similarity(self, words: Tensor) -> Tensor:
        """Return the cosine similarity of words, unit vectors [R,E], to the nearest name of each class [R,1000]."""
        each = (words @ self.phrases.T)[:, self._phrase] * self._factor
        nearest = torch.full((len(words), CLASSES), -1.0, device=words.device, dtype=each.dtype)
        return nearest.scatter_reduce(1, self._index.expand(len(words), -1), each, "amax")

    def top_classes(self, words: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the `count` ImageNet classes nearest to each word, to be weighted by classifier_prior.py.

        Words, unit vectors [R,E] -> class indices, long [R,count], and their gates and shares [R,count].
        """
        top, index = (self.similarity(words) - self.commonness).topk(count, dim=1)
        return index, torch.exp((top - top[:, :1]) / _GATE_WIDTH), (top / _SHARE_TEMPERATURE).softmax(1)


@lru_cache(maxsize=1)
def audioset_names() -> tuple[str, ...]:
    """Return the 527 display names of AudioSet. A comma is part of a name, as in "Male speech, man speaking"."""
    return tuple(row["name"] for row in read_rows("audioset.csv"))


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """Return the 1000 ImageNet classes, each with synonyms, as "tench, Tinca tinca"; the first is the usual name."""
    return tuple(row["name"] for row in read_rows("imagenet.csv"))


def _hypernyms() -> list[tuple[str, tuple[int, ...]]]:
    """Return the hypernyms, each with the indices of the classes it covers."""
    hypernyms = []
    for row in read_rows("imagenet_hypernyms.csv"):
        runs = [run.partition("-") for run in row["classes"].split()]
        classes = tuple(i for first, _, last in runs for i in range(int(first), int(last or first) + 1))
        hypernyms += [(name, classes) for name in row["names"].split(";")]
    return hypernyms


class OpenVocabEncoder(nn.Module):
    """Frozen encoder: frames uint8 [N,H,W,3] -> levels [N,c,h,w], and `evidence`. Splits batches on a CPU for speed."""

    strides, channels = EfficientNetLite0.strides, EfficientNetLite0.channels

    def __init__(self, network: EfficientNetLite0, segmenter: VocSegmenter | None) -> None:
        super().__init__()
        self.network, self.classifier, self.segmenter = network, DenseClassifier(network), segmenter

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Parts of the encoder that are unavailable."""
        return () if self.segmenter is not None else (WITHOUT_SEGMENTER,)

    def evidence(self, frames: Tensor, object_probs: Tensor | None = None) -> VisualFeatures:
        """Return the levels, ImageNet class scores, and object probabilities of the segmenter (0 without a segmenter).
        object_probs: use these, computed from the same frames at another size.
        """
        pyramid = self(frames)
        probs = self.segment_objects(frames) if object_probs is None else object_probs
        return VisualFeatures(pyramid, self.classifier(pyramid[-1]), probs)

    def segment_objects(self, frames: Tensor) -> Tensor:
        """Segment frames uint8 [N,H,W,3] -> object probabilities [N,20,GRID,GRID]."""
        if self.segmenter is None:
            return torch.zeros(len(frames), VOC_CLASSES, GRID, GRID, device=frames.device)
        if frames.device.type != "cpu":
            return self.segmenter(frames)
        return torch.cat([self.segmenter(batch) for batch in frames.split(_SEGMENTER_BATCH)])

    def forward(self, frames: Tensor) -> list[Tensor]:
        if frames.device.type != "cpu" or frames.shape[1] <= _MAX_BATCHED_SIDE:
            return self.network(frames)
        return [torch.cat(level) for level in zip(*map(self.network, frames.split(1)), strict=True)]
