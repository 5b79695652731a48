"""Dense class evidence: what EfficientNet-Lite0's classifier says at every position, and how that bears on a word.

The classifier follows a mean over positions, so it can as well be applied before it (Zhou et al., class activation
mapping, arXiv 1512.04150). Logits of a class are compared with what that class gets anywhere (imagenet_logits.csv: mean
and standard deviation over positions of composed scenes). A softmax over classes would ask which class a patch of sky
is; a z-score asks whether anything here is unusually like a dog.

A word bears on a class as far as a text encoder puts it near one of the class's names, or near what the class is: no
name of a Pekinese says "dog". imagenet_hypernyms.csv lists such hypernyms with the classes that they cover (runs of
WordNet's order), and people, whom ImageNet does not name, with the classes of what they wear.
"""

from __future__ import annotations

import csv
from importlib import resources

import torch
from torch import Tensor, nn

from icf_avs.encoders.efficientnet_lite import EfficientNetLite0
from icf_avs.encoders.label_names import audioset_names, imagenet_names
from icf_avs.encoders.minilm import TEXT_DIM, embed_names
from icf_avs.encoders.onednn import fused_conv, pointwise

CLASSES = 1000
_HYPERNYM = 0.97  # a class's own name counts a little more than what it is
_WIDTH = 0.15  # of the gate: a class this much further from a word than the nearest one counts 1/e
_SHARP = 0.05  # temperature of the shares


class DenseClassifier(nn.Module):
    """Last level of the pyramid [N,320,h,w] -> how unusual each class's logit is there, z-scores [N,1000,h,w]."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.head, self.classifier = network.head, network.classifier
        mean, deviation = torch.tensor(_statistics()).unbind(1)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("deviation", deviation[:, None, None], persistent=False)

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
        self.register_buffer("phrases", embed_names(texts) if embed else torch.zeros(len(texts), TEXT_DIM))
        # One row per pair of a phrase and a class that it names.
        pairs = [
            (number, index, 1.0 if number < own else _HYPERNYM)
            for number, (_, classes) in enumerate(phrases)
            for index in classes
        ]
        phrase, index, factor = zip(*pairs, strict=True)
        self.register_buffer("_phrase", torch.tensor(phrase), persistent=False)
        self.register_buffer("_index", torch.tensor(index), persistent=False)
        self.register_buffer("_factor", torch.tensor(factor), persistent=False)
        # Some classes are near to any word; that much of their nearness says nothing.
        self.register_buffer("commonness", torch.zeros(CLASSES))
        if embed:
            self.commonness.copy_(self.similarity(embed_names(audioset_names())).mean(0))

    def similarity(self, words: Tensor) -> Tensor:
        """Unit vectors of words [R,E] -> cosine to the nearest name of each class [R,1000]."""
        each = (words @ self.phrases.T)[:, self._phrase] * self._factor
        nearest = torch.full((len(words), CLASSES), -1.0, device=words.device, dtype=each.dtype)
        return nearest.scatter_reduce(1, self._index.expand(len(words), -1), each, "amax")

    def known(self, words: Tensor) -> Tensor:
        """Unit vectors of words [R,E] -> [R], cosine to the nearest class: under about .5, no class is meant."""
        return self.similarity(words).amax(1)

    def top_classes(self, words: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` ImageNet classes nearest to each word, which classifier_prior.py weighs.

        Unit vectors of words [R,E] -> classes long [R,count], their gates and shares [R,count].
        """
        top, index = (self.similarity(words) - self.commonness).topk(count, dim=1)
        return index, torch.exp((top - top[:, :1]) / _WIDTH), (top / _SHARP).softmax(1)


def _hypernyms() -> list[tuple[str, tuple[int, ...]]]:
    """Hypernyms, and the classes that each covers."""
    hypernyms = []
    for row in _rows("imagenet_hypernyms.csv"):
        runs = [run.partition("-") for run in row["classes"].split()]
        classes = tuple(i for first, _, last in runs for i in range(int(first), int(last or first) + 1))
        hypernyms += [(name, classes) for name in row["names"].split(";")]
    return hypernyms


def _statistics() -> list[tuple[float, float]]:
    return [(float(row["mean"]), float(row["deviation"])) for row in _rows("imagenet_logits.csv")]


def _rows(file: str) -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
