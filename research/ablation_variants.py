"""Stand-ins for parts of the method, for rows of the study: each takes the place of the part and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.networks.guided_parts.counterfactual import Counterfactuals, SemanticCounterfactual
from icf_avs.networks.guided_parts.implicit_text import ImplicitText
from icf_avs.networks.guided_parts.joint_embedding import Gaussian, JointEmbedding
from icf_avs.networks.guided_parts.vocabulary import Vocabulary
from icf_avs.networks.segmentation_model import SegmentationModel


class ShuffledSounds(SemanticCounterfactual):
    """Other clips' sounds as they are, with blank targets: the strongest simple baseline, from the field."""

    def __init__(self, dim: int, classes: int, count: int) -> None:
        super().__init__(dim, classes, count, words=False)

    def place(self, factual: Tensor, proposals: Tensor, norms: Tensor) -> Tensor:
        return proposals


class RandomVectors(SemanticCounterfactual):
    """Random directions around the mean, as long as the factual sounds are; what they would sound like nobody knows."""

    def __init__(self, dim: int, classes: int, count: int) -> None:
        super().__init__(dim, classes, count, words=False)

    def place(self, factual: Tensor, proposals: Tensor, norms: Tensor) -> Tensor:
        return self.mean + F.normalize(torch.randn_like(proposals), dim=-1) * norms[..., None]

    def forward(self, sound: Tensor, *set_clip_length: Tensor | Vocabulary | None) -> Counterfactuals:
        counterfactuals = super().forward(sound, *set_clip_length)
        return counterfactuals._replace(
            classes=torch.zeros_like(counterfactuals.classes), known=torch.zeros_like(counterfactuals.known)
        )


class DroppedSound(SemanticCounterfactual):
    """The factual sound with nine tenths of its channels at the mean: a sound in which nothing is heard any more."""

    def __init__(self, dim: int, classes: int, count: int) -> None:
        super().__init__(dim, classes, count, words=False)

    def place(self, factual: Tensor, proposals: Tensor, norms: Tensor) -> Tensor:
        kept = torch.rand_like(proposals) < 0.1
        return self.mean + (factual - self.mean) * kept

    def forward(self, sound: Tensor, *set_clip_length: Tensor | Vocabulary | None) -> Counterfactuals:
        counterfactuals = super().forward(sound, *set_clip_length)
        return counterfactuals._replace(
            classes=torch.zeros_like(counterfactuals.classes), known=torch.ones_like(counterfactuals.known)
        )


class OneLevelText(ImplicitText):
    """Implicit text at one granularity, "video", "segment" or "frame", handed to every frame of its scope."""

    def __init__(self, like: ImplicitText, heads: int, level: str) -> None:
        tokens, dim = like.queries[level].shape
        super().__init__(like.vocabulary, dim, heads, tokens, like.segment)
        self.level = level
        for other in {"video", "segment", "frame"} - {level}:
            del self.queries[other], self.read[other]

    def forward(self, sound: Tensor, visual: Tensor, valid: Tensor) -> dict[str, Tensor]:
        frames, words = valid.shape[1], self.vocabulary.words()
        if self.level == "frame":
            return {"frame": self.of_frames(sound, visual, valid, words, [])}
        if self.level == "segment":
            segments = self.of_segments(sound, visual, valid, words, [])
            return {"frame": segments[:, self.owner(frames, sound.device)]}
        return {"frame": self.of_video(sound, visual, valid, words)[:, None].expand(-1, frames, -1, -1)}


class CosineSpace(JointEmbedding):
    """Means alone, of unit length: then W2^2 = 2 - 2 cos, and how tokens spread counts for nothing."""

    def of_audio(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return _point(super().of_audio(tokens, weights))

    def of_vision(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return _point(super().of_vision(tokens, weights))

    def of_text(self, tokens: Tensor, weights: Tensor) -> Gaussian:
        return _point(super().of_text(tokens, weights))


def _point(modality: Gaussian) -> Gaussian:
    return Gaussian(F.normalize(modality.mean, dim=-1), torch.zeros_like(modality.deviation))


def replace_part(model: SegmentationModel, control: str) -> None:
    """Put the stand-in of that name into a freshly built full model. Raises ValueError for another name."""
    config, network = model.config, model.network
    counterfactuals = {"random": RandomVectors, "shuffled": ShuffledSounds, "dropout": DroppedSound}
    if control in counterfactuals:
        network.counterfactual = counterfactuals[control](config.dim, len(config.classes), config.counterfactual.count)
    elif control in ("video", "segment", "frame"):
        network.implicit_text = OneLevelText(network.implicit_text, config.heads, control)
    elif control == "cosine":
        shared = config.contrastive
        text = network.implicit_text is not None
        network.joint_embedding = CosineSpace(config.dim, shared.dim, shared.floor, shared.temperature, text)
    else:
        raise ValueError(f"no control {control!r}")
