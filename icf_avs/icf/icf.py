"""ICF, as in figure 2 of the paper: features -> implicit text -> counterfactual pool -> contrasts -> losses.

It is built around a network for training and removed afterwards. Masks, inference graph, checkpoint and export of the
network are the same without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.encoders.text_encoders import TextEncoder, load_text_encoders
from icf_avs.icf.check_features import FeatureCheck
from icf_avs.icf.contrastive import ContrastInputs, DistributionContrast, positive_pairs
from icf_avs.icf.diagnostics import audio_visual_auroc, class_change_rate, mean_cosine_between_clips, positive_pair_rate
from icf_avs.icf.implicit_text import ImplicitText, TextFusion
from icf_avs.icf.losses import ICFLossWeights, weighted_sum
from icf_avs.icf.semantic_counterfactual import CounterfactualPool, SemanticCounterfactual, texts_of_other_clips
from icf_avs.settings import CDCL, MIT, SC
from icf_avs.types import Batch, FeatureSpec, NetworkFeatures, Texts


@dataclass(frozen=True)
class ICFOutput:
    """Losses of a batch. terms: unweighted, by name; total: their weighted sum; diagnostics: for logging only."""

    terms: dict[str, Tensor]
    total: Tensor
    diagnostics: dict[str, Tensor]


class ICF(nn.Module):
    """The ICF plug-in. features: widths of the network's features. A part that is None is not built. level: the visual
    level that is read, the coarsest by default. encoder_of: text level -> its frozen text encoder.

    Raises ValueError for a level that does not exist, and for an SC that needs MIT where mit is None.
    """

    def __init__(
        self, features: FeatureSpec, mit: MIT | None = None, sc: SC | None = None, cdcl: CDCL | None = None,
        weights: ICFLossWeights | None = None, level: int = -1, encoder_of: Callable[[str], TextEncoder] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.check = FeatureCheck(features, level, cdcl is not None)
        visual, audio, dim = features.visual[level], features.audio, (mit or MIT()).dim
        self.level, self.cdcl, self.weights = level, cdcl, weights or ICFLossWeights()
        self.strategy = sc.strategy if sc else None
        if self.strategy in ("audio-swap", "text-revision") and not mit:
            raise ValueError(f"SC(strategy='{self.strategy}') needs MIT: it changes the texts of a clip")
        self.implicit_text = None
        if mit and mit.reading != "text":  # with "text" the network itself has the implicit text
            channels = visual if mit.reading == "plug-in" else None
            self.implicit_text = ImplicitText(mit, channels, audio, encoder_of or load_text_encoders(mit.encoders))
        self.fusion = TextFusion(mit) if mit else None
        # Not from the paper, whose SC always has a text: without MIT, z is a projection of visual and audio features.
        self.semantic = nn.Linear(visual + audio, dim) if sc and not mit else None
        self.counterfactual = SemanticCounterfactual(sc, dim, visual) if sc else None
        self.contrast = DistributionContrast(cdcl, visual, audio, dim if mit or sc else None) if cdcl else None

    def forward(self, features: NetworkFeatures, batch: Batch) -> ICFOutput:
        """Return the losses of a batch from the network's features. Raises ValueError for features of another shape."""
        self.check(features, batch, self.training)
        maps, audio, valid = features.visual[self.level], features.audio, batch.valid
        vision = pool_visual(maps, batch, self.cdcl.vision if self.cdcl else "frame")

        texts, z, pool, terms = None, None, None, {}
        if self.fusion is not None:
            texts = self._implicit_texts(features, maps, valid)  # l^v and l^a (eq. 1-4)
            z, terms = self.fusion(texts, valid), {"pull": texts.pull}  # factual text (eq. 5)
        elif self.semantic is not None:
            z = self.semantic(torch.cat([vision, audio], -1))
        if self.counterfactual is not None:
            pool, losses = self.counterfactual(z, vision, valid, self._candidates(texts, valid))  # l^cf (eq. 6-12)
            terms |= losses
        clips = ContrastInputs(vision, audio, valid, z, texts.sound if texts else None)
        if self.contrast is not None:
            terms |= self.contrast(clips, pool)  # eq. 13-17
        total = weighted_sum(terms, self.weights) if terms else maps.sum() * 0  # eq. 19
        return ICFOutput(terms, total, self._diagnostics(maps, clips, pool, batch))

    def _implicit_texts(self, features: NetworkFeatures, maps: Tensor, valid: Tensor) -> Texts:
        """Return the texts of eq. 1-4, from the network if it computes them itself."""
        if features.texts is not None:
            return features.texts
        if self.implicit_text is None:
            raise ValueError("MIT(reading='text') needs a network with texts: ModelConfig(mit=...)")
        return self.implicit_text(maps, features.audio, valid, features.levels, self.strategy == "text-revision")

    @torch.no_grad()
    def _candidates(self, texts: Texts | None, valid: Tensor) -> Tensor | None:
        """Return eq. 5 [B,J,T,d] of each clip's visual text with every other clip's audio text, or of revised texts."""
        if texts is None or self.fusion is None or self.strategy not in ("audio-swap", "text-revision"):
            return None
        if self.strategy == "audio-swap":
            audio = texts_of_other_clips(texts.audio, valid)
            visual = texts.visual[:, None].expand_as(audio)
        elif texts.revised is None:
            raise ValueError("SC(strategy='text-revision') needs texts that ICF computes, not MIT(reading='text')")
        else:
            visual, audio = texts.revised
        pairs = audio.shape[:2]
        mixed = texts._replace(visual=visual.flatten(0, 1), audio=audio.flatten(0, 1))
        return self.fusion(mixed, valid[:, None].expand(*pairs, -1).flatten(0, 1)).unflatten(0, pairs)

    @torch.no_grad()
    def _diagnostics(
        self, maps: Tensor, clips: ContrastInputs, pool: CounterfactualPool | None, batch: Batch
    ) -> dict[str, Tensor]:
        diagnostics = {}
        if clips.text is not None:
            diagnostics["z cosine over clips"] = mean_cosine_between_clips(clips.text, clips.valid)
        if pool is not None and clips.text is not None:
            diagnostics["z* of another class"] = class_change_rate(clips.text, pool.texts, clips.valid, batch.sounding)
        if self.contrast is not None and self.cdcl is not None:
            vision, audio = self.contrast.joint(maps.movedim(2, -1), clips.audio)
            diagnostics["joint space AUC"] = audio_visual_auroc(vision, audio, batch)
            diagnostics["positive pairs"] = positive_pair_rate(positive_pairs(clips, self.cdcl))
        return diagnostics


def pool_visual(maps: Tensor, batch: Batch, region: str) -> Tensor:
    """Average maps [B,T,C,h,w] -> [B,T,C] over the frame, or with "mask" over the mask in frames that have one."""
    mean = maps.mean((-2, -1))
    if region == "frame":
        return mean
    coverage = F.adaptive_avg_pool2d(batch.masks, (maps.shape[-2], maps.shape[-1]))[:, :, None]
    size = coverage.sum((-2, -1))
    inside = (maps * coverage).sum((-2, -1)) / size.clamp(min=1e-6)
    return torch.where(batch.labelled[..., None] & (size > 0), inside, mean)
