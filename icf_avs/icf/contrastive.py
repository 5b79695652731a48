"""CDCL: contrasts between Gaussians of vision, audio and text (eq. 13-17).

    D(v, a)   = W2^2(v, a) + gamma (H(v) + H(a))                                              (eq. 15)
    L_va      = -1/B sum_i log [ sum_(j in P_i) exp(-D(v_i, a_j) / tau)
                                 / sum_(j in P_i and N_i) exp(-D(v_i, a_j) / tau) ]           (eq. 16)
    L_vt      = -1/B sum_i log [ exp(-D(v_i, z_i) / tau) / (exp(-D(v_i, z_i) / tau)
                                 + sum_k w_k exp(-D(v_i, l^cf_ik) / tau)) ]                   (eq. 17)
    w_k       = sqrt(1 - alpha_k) / sum_j sqrt(1 - alpha_j)

P_i are the clips whose audio text matches that of clip i by cosine, always including i; N_i are all other clips. L_at
is L_vt with audio in place of vision. The paper prints exp(D / tau); nearer pairs must count more, so -D is meant.
Without counterfactuals (row MIT+CDCL of table 2) eq. 17 has no negatives; the paper is silent, we use texts of others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icf_avs.distributed import all_gather_clips, local_slice, masked_mean
from icf_avs.icf.gaussian import Gaussians, entropy, fit_gaussians, wasserstein2
from icf_avs.icf.semantic_counterfactual import CounterfactualPool
from icf_avs.settings import CDCL


@dataclass(frozen=True)
class ContrastInputs:
    """Features of B clips: vision [B,T,V], audio [B,T,A], text z [B,T,d], audio_text l^a [B,T,d], valid [B,T] bool."""

    vision: Tensor
    audio: Tensor
    valid: Tensor
    text: Tensor | None = None
    audio_text: Tensor | None = None


class DistributionContrast(nn.Module):
    """Projections into the joint space, and the three contrasts in it. vision, audio, text: widths of the features."""

    def __init__(self, settings: CDCL, vision: int, audio: int, text: int | None) -> None:
        super().__init__()
        self.settings = settings
        self.vision, self.audio = nn.Linear(vision, settings.dim), nn.Linear(audio, settings.dim)
        self.text = None if text is None else nn.Linear(text, settings.dim)

    def forward(self, clips: ContrastInputs, pool: CounterfactualPool | None = None) -> dict[str, Tensor]:
        """Return the loss terms by name: these clips against those of all processes. pool: their counterfactuals."""
        settings, present, terms = self.settings, clips.valid.any(1), {}
        vision, audio = self.joint(clips.vision, clips.audio)
        anchors = {"vision": fit_gaussians(vision, clips.valid), "audio": fit_gaussians(audio, clips.valid)}
        positive = positive_pairs(clips, settings)
        if "vision-audio" in settings.contrasts:
            distances = distance(_column(anchors["vision"]), _all_clips(anchors["audio"]), settings)
            terms["vision-audio"] = multi_positive_nce(-distances / settings.temperature, positive, present)
        if self.text is None or clips.text is None:
            return terms
        text = fit_gaussians(F.normalize(self.text(clips.text), dim=-1), clips.valid)
        negatives, weights = [], []  # Gaussians [B,K] and their weights
        if pool is not None:
            negatives += [fit_gaussians(F.normalize(self.text(pool.texts), dim=-1), clips.valid[:, None])]
            weights += [pool.weights]
        other_texts = pool is None or settings.other_texts
        if other_texts:
            weights += [(~positive).float()]
        for name, anchor in anchors.items():
            if f"{name}-text" in settings.contrasts:
                negative_gaussians = [*negatives, _all_clips(text)] if other_texts else negatives
                logits = [
                    -distance(_column(anchor), each, settings) / settings.temperature for each in negative_gaussians
                ]
                positive_logits = -distance(anchor, text, settings) / settings.temperature
                terms[f"{name}-text"] = weighted_nce(
                    positive_logits, torch.cat(logits, 1), torch.cat(weights, 1), present
                )
        return terms

    def joint(self, vision: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Project features [...,V] and [...,A] to unit vectors in the joint space."""
        return F.normalize(self.vision(vision), dim=-1), F.normalize(self.audio(audio), dim=-1)


def positive_pairs(clips: ContrastInputs, settings: CDCL) -> Tensor:
    """Return P_i as bool [b,B]: clips of this process against clips of all. Each clip is a positive of itself."""
    valid = all_gather_clips(clips.valid)
    pairs = torch.eye(len(valid), dtype=torch.bool, device=valid.device)[local_slice()]
    if settings.positives == "pairs" or clips.audio_text is None:
        return pairs
    weight = valid[..., None].to(clips.audio_text.dtype)
    mean = (all_gather_clips(clips.audio_text.detach()) * weight).sum(1) / weight.sum(1).clamp(min=1)
    texts = F.normalize(mean, dim=-1)
    return pairs | (texts[local_slice()] @ texts.T >= settings.positive_cosine)


def distance(first: Gaussians, second: Gaussians, settings: CDCL) -> Tensor:
    """Return D of eq. 15 for Gaussians that broadcast. "prototypes": of the means only; "features": frame by frame,
    exact for clips of equal length.
    """
    means = (first.mean - second.mean).square().sum(-1)
    if settings.measure == "prototypes":
        return means
    if settings.measure == "features":  # frame t against frame t; centred frames and means are orthogonal
        return means + first.trace + second.trace - 2 * (first.rows * second.rows).sum((-2, -1))
    w2_squared = wasserstein2(first, second)
    if not settings.gamma:
        return w2_squared
    scale = settings.gamma / (first.mean.shape[-1] if settings.entropy == "per dimension" else 1)
    return w2_squared + scale * (entropy(first, settings.shrinkage) + entropy(second, settings.shrinkage))


def multi_positive_nce(logits: Tensor, positive: Tensor, present: Tensor) -> Tensor:
    """Return eq. 16 for logits -D/tau [B,G] with positives [B,G], averaged over the clips that are present [B]."""
    positive_logsumexp = logits.masked_fill(~positive, -torch.inf).logsumexp(1)
    return masked_mean(logits.logsumexp(1) - positive_logsumexp, present)


def weighted_nce(factual: Tensor, negatives: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    """Return eq. 17 for logits -D/tau: factual [B], negatives [B,K] with weights [B,K]; weight 0: not a negative."""
    weighted_negatives = torch.where(weights > 0, negatives + weights.clamp(min=1e-12).log(), -torch.inf)
    return masked_mean(torch.cat([factual[:, None], weighted_negatives], 1).logsumexp(1) - factual, present)


def _column(gaussians: Gaussians) -> Gaussians:
    """Reshape [B] -> [B,1], to broadcast along the second dimension."""
    return Gaussians(*(part[:, None] for part in gaussians))


def _all_clips(gaussians: Gaussians) -> Gaussians:
    """Gather the Gaussians [b] of all processes -> [1,B]."""
    return Gaussians(*(all_gather_clips(part)[None] for part in gaussians))
